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
from bench.kernels.base import EVENTS_FD, Command, Kernel, in_memory, parse_config
from bench.kernels.modules import Modules
from bench.kernels.owned import owned
from bench.kernels.relay import GRACE, Lines, Relay, exit_code, signals
from dataplanes.errors import TimedOut
from dataplanes.kernel import interrupt, netns
from dataplanes.kernel.process import pid_namespace


class HostKernel(Kernel):
    """This machine's own kernel."""

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

    def types(self) -> bytes:
        path = Path("/sys/kernel/btf/vmlinux")
        return path.read_bytes() if path.exists() else b""

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        keep = str(native.binary("keep"))
        netns.share_run()  # namespaces that are created in `keep`'s mount namespace are visible here
        script = f'exec {EVENTS_FD}>&"$0" "$@"'
        relay = Relay(command.timeout)
        caught: list[int] = []
        with ExitStack() as stack:
            stack.callback(relay.close)
            (reading, writing), (kept, _) = (stack.enter_context(_pipe()) for _ in range(2))
            argv = ("/bin/bash", "-c", script, str(writing.fileno()), *command.argv)
            given = stack.enter_context(in_memory("input", command.input))
            own = {"BENCH_EVENTS_FD": str(EVENTS_FD), "BENCH_INPUT": f"/proc/self/fd/{given}"}
            if command.tty:
                stack.enter_context(_foreground())
            interrupts = stack.enter_context(signals())
            with pid_namespace():
                # The child gets its own session, so that signals reach it and all its descendants through this process.
                # A shell needs this process's terminal, so it gets none.
                process = stack.enter_context(
                    owned(
                        (keep, str(kept.fileno()), *argv),
                        env={**command.env, **own},
                        cwd=command.cwd,
                        stdin=None if command.stdin else subprocess.DEVNULL,
                        pass_fds=(writing.fileno(), kept.fileno(), given),
                        start_new_session=not command.tty,
                        preexec_fn=None,  # `keep` ties itself; a first process loses a signal it does not block
                    )
                )
            stack.callback(_end, process)  # the receiver of an event may fail, for example on a full disk
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
                        elif number != signal.SIGINT:  # a terminal itself sends this one to everybody
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
    """Return both ends of a pipe."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as from_here, open(writing, "wb", buffering=0) as to_here:
        yield from_here, to_here


@contextmanager
def _foreground() -> Iterator[None]:
    """Take the terminal back after a shell that had it. From its PID namespace the shell cannot give it back."""
    ours = os.getpgrp()
    try:
        yield
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with suppress(OSError):  # the terminal was closed
            os.tcsetpgrp(0, ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the command undo its work, if it has not ended."""
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
