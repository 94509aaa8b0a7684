"""The running kernel as the kernel under test."""

from __future__ import annotations

import gzip
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from bench.kernels.base import EVENTS_FD, Command, Kernel, parse_config
from bench.kernels.modules import Modules
from bench.kernels.relay import Lines, Relay, settle, signals
from dataplanes.errors import TimedOut

_GRACE = 60.0
"""Seconds a command gets to clean up after its time is up."""


class Host(Kernel):
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
        reading, writing = os.pipe()
        script = f'exec {EVENTS_FD}>&"$0" "$@"' if writing != EVENTS_FD else 'exec "$@"'
        relay = Relay(command.timeout)
        caught: list[int] = []
        # A session of its own, so that signals reach it and all it started through us; but a shell needs our terminal.
        process = subprocess.Popen(
            ("/bin/bash", "-c", script, str(writing), *command.argv),
            env={**command.env, "BENCH_EVENTS_FD": str(EVENTS_FD)},
            cwd=command.cwd,
            pass_fds=(writing,),
            start_new_session=not command.tty,
        )
        os.close(writing)

        def forward(numbers: bytes) -> None:
            for number in numbers:
                if not command.tty and number != signal.SIGWINCH:  # a terminal tells everybody itself
                    caught.append(number)
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, number)

        try:
            with signals() as interrupts:
                relay.watch(reading, Lines(on_event).feed)
                relay.watch(interrupts, forward, counts=False)
                in_time = relay.run()
                if not in_time:
                    _end(process)
                code = process.wait()
        finally:
            _end(process)  # what an event was told to may have failed: a disk that is full
            relay.close()
            os.close(reading)
        if not in_time:
            raise TimedOut("time is up", where=" ".join(command.argv[:3]), why=f"{command.timeout:g} s")
        return settle(code if code >= 0 else 128 - code, caught)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have it undo what it did, if it has not ended; and end it if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@cache
def _config(release: str) -> dict[str, str] | None:
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="ascii") as file:
            return parse_config(file.read())
    except OSError:
        path = Path(f"/boot/config-{release}")
        return parse_config(path.read_text("ascii")) if path.exists() else None
