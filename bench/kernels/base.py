"""The interface of a kernel under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from msgspec import Struct

EVENTS_FD = 3
"""The descriptor of the event channel in the command, also told as BENCH_EVENTS_FD."""


class Command(Struct, frozen=True):
    """What to run. Its stdin, stdout and stderr are ours."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    tty: bool = False  # stdin and stdout are a terminal
    timeout: float | None = None  # seconds of real time
    modules: tuple[str, ...] = ()  # loaded before it starts
    outputs: tuple[str, ...] = ()  # directories it may write to


class Kernel(ABC):
    """A kernel commands can run on."""

    name: str  # host, debian-6.1, or the path it was given by
    release: str  # as uname -r says
    clock: str  # wall or instructions
    emulator = ""  # the command it runs in, if it is not this machine's own
    accelerated: bool  # runs at the processor's speed: the host itself, or KVM

    @abstractmethod
    def config(self) -> Mapping[str, str] | None:
        """How it was built: CONFIG_X -> y, m or a value; None if it does not say."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Another one, if anything of it is another: its image, its modules, what boots it."""

    @abstractmethod
    def has_module(self, name: str) -> bool:
        """True if the module is there to be loaded, or built in."""

    @abstractmethod
    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        """Run a command, passing streams and signals through; each line it writes to the event channel is an event.

        Returns its exit code, 128 + n if signal n ended it. Raises TimedOut when its time is up, and GuestPanic with
        the last console lines when the kernel goes down under it.
        """


def parse_config(text: str) -> dict[str, str]:
    """The set symbols of a kernel configuration."""
    lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {name: value for name, _, value in lines}
