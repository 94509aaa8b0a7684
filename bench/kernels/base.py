"""The interface of a kernel under test."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct

EVENTS_FD = 3
"""The descriptor of the event channel in the command, which BENCH_EVENTS_FD also tells."""


class Command(Struct, frozen=True):
    """A command. Its stdout and stderr are those of this process, and its stdin is, if it is to read it."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    stdin: bool = False  # True if this process's stdin is for it; otherwise it finds the end at once
    tty: bool = False  # True if stdin and stdout are a terminal
    timeout: float | None = None  # in seconds of real time
    modules: tuple[str, ...] = ()  # modules that are loaded before it starts
    input: bytes = b""  # what it finds in the file that BENCH_INPUT names; one argument has room for 128 KiB only


class Kernel(ABC):
    """A kernel that can run commands."""

    name: str  # host, debian-6.1, or the path by which it was given
    release: str  # as in uname -r
    clock: str  # wall or instructions
    emulator = ""  # the command it runs in, unless it is this machine's own
    accelerated: bool  # it runs at the processor's speed: the host itself, or KVM

    @abstractmethod
    def config(self) -> Mapping[str, str] | None:
        """Return the build's configuration: CONFIG_X -> y, m or a value; None if it is not published."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a string that differs if anything of the kernel differs: its image, its modules, what boots it."""

    @abstractmethod
    def has_module(self, name: str) -> bool:
        """Return True if the module can be loaded, or is built in."""

    def types(self) -> bytes:
        """Return the BTF of the kernel's image; b"" if it has none."""
        return b""

    @abstractmethod
    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        """Run a command, and pass streams and signals through. Each line on the event channel is an event.

        Return its exit code, or 128 + n if signal n ended it. Raises TimedOut when its time is up, and GuestPanic with
        the last lines of the console if the kernel panics.
        """


@contextmanager
def in_memory(name: str, content: bytes) -> Iterator[int]:
    """Return a file in memory that is open for a child to inherit."""
    handle = os.memfd_create(name)
    try:
        os.write(handle, content)
        yield handle
    finally:
        os.close(handle)


def parse_config(text: str) -> dict[str, str]:
    """Return the set symbols of a kernel configuration."""
    lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {name: value for name, _, value in lines}
