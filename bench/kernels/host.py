"""The running kernel as the kernel under test."""

from __future__ import annotations

import gzip
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from bench import native
from bench.kernels.base import EVENTS_FD, Command, Kernel, parse_config
from bench.kernels.modules import Modules
from bench.kernels.owned import owned
from bench.kernels.relay import GRACE, Lines, Relay, exit_code, signals
from dataplanes.errors import TimedOut
from dataplanes.kernel import interrupt, netns
from dataplanes.kernel.process import pid_namespace


class HostKernel(Kernel):
    """This machine's kernel."""

    name = "host"
    clock = "wall"
    accelerated = True

    def __init__(self) -> None:
        self.release = platform.release()

    def config(self) -> Mapping[str, str] | None:
        return _config(self.release)

    def fingerprint(self) -> str:
        return platform.version()

    def has_module(self, name: str) -> bool:
        return Path("/sys/module", name).exists() or Modules(Path("/lib/modules", self.release)).has(name)

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        keep = str(native.binary("keep"))
        netns.share_run()  # namespaces made in `keep`'s mount namespace are seen in ours
        script = f'exec {EVENTS_FD}>&"$0" "$@"'
        relay = Relay(command.timeout)
        caught: list[int] = []
        with ExitStack() as stack:
            stack.callback(relay.close)
            (reading, writing), (kept, _) = (stack.enter_context(_pipe()) for _ in range(2))
            argv = ("/bin/bash", "-c", script, str(writing.fileno()), *command.argv)
            if command.tty:
                stack.enter_context(_foreground())
            interrupts = stack.enter_context(signals())
            with pid_namespace():
                # A session of its own, so that signals reach it and all it started through us; but a shell needs our
                # terminal.
                process = stack.enter_context(
                    owned(
                        (keep, str(kept.fileno()), *argv),
                        env={**command.env, "BENCH_EVENTS_FD": str(EVENTS_FD)},
                        cwd=command.cwd,
                        pass_fds=(writing.fileno(), kept.fileno()),
                        start_new_session=not command.tty,
                        preexec_fn=None,  # `keep` ties itself; and a first process loses a signal it does not block
                    )
                )
            stack.callback(_end, process)  # what an event was told to may fail: a disk that is full
            writing.close()
            kept.close()

            def forward(numbers: bytes) -> None:
                for number in numbers:
                    if number == signal.SIGWINCH:
                        continue
                    caught.append(number)
                    relay.expire(GRACE)
                    with suppress(ProcessLookupError):
                        if not command.tty:
                            os.killpg(process.pid, number)
                        elif number != signal.SIGINT:  # that one a terminal tells everybody itself
                            process.send_signal(number)

            relay.watch(reading.fileno(), Lines(on_event).feed)
            relay.watch(interrupts, forward, counts=False)
            if relay.run():
                code = process.wait()
                return exit_code(code if code >= 0 else 128 - code, caught)
            if caught:  # it has been asked to end, and has not
                process.kill()
        if caught:
            interrupt.strike(caught[0])
        raise TimedOut("time is up", where=" ".join(command.argv[:3]), why=f"{command.timeout:g} s")


@contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Both ends of a pipe."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as from_here, open(writing, "wb", buffering=0) as to_here:
        yield from_here, to_here


@contextmanager
def _foreground() -> Iterator[None]:
    """The terminal is ours again when a shell that took it has ended: from its PID namespace it cannot give it back."""
    ours = os.getpgrp()
    try:
        yield
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with suppress(OSError):  # it was closed
            os.tcsetpgrp(0, ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have it undo what it did, if it has not ended."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


@cache
def _config(release: str) -> dict[str, str] | None:
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="ascii") as file:
            return parse_config(file.read())
    except OSError:
        path = Path(f"/boot/config-{release}")
        return parse_config(path.read_text("ascii")) if path.exists() else None
