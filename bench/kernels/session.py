"""The connection with one guest, from its power-on to its end: the command's streams, its signals, and the console."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from bench.kernels.base import Command
from bench.kernels.relay import GRACE, Lines, Relay, signals, write_all
from dataplanes.errors import BenchError, TimedOut

PORTS = ("in", "out", "err", "events", "control")
STREAMS = ("console", *PORTS)
_OUTPUT = ("out", "err", "events")
COMES_UP = 120.0
"""Seconds of processor time within which a guest must run its command. An emulated guest takes four.

It is not real time, which depends on the load of the machine.
"""
STANDS_STILL = 30.0
"""Seconds of real time within which a booting guest must get some processor time. A guest that gets none hangs."""
_GOES_DOWN = 10.0
"""Seconds from the end of its command, or from its kernel's panic, within which a guest must end."""
PANIC = "Kernel panic - not syncing"


class Session:
    """The connection with one guest: four streams, the control port, and the console of its kernel."""

    def __init__(
        self,
        command: Command,
        process: subprocess.Popen[bytes],
        ports: list[socket.socket],
        on_event: Callable[[bytes], None],
        job: bytes,
        *,
        booted: bool = False,
    ) -> None:
        """`job` is what init reads. A guest that has been `booted` before does not say that it is."""
        self._command = command
        self._process = process
        self._ports = dict(zip(STREAMS, ports, strict=True))
        self._on_event = on_event
        self._job = job
        self._has_booted = booted
        self._relay = Relay(STANDS_STILL)
        self._used = 0.0  # processor time at the last look
        self._code: int | None = None
        self._has_ended = False  # its command
        self._left = dict.fromkeys(_OUTPUT, 0)  # bytes of each port that the guest has told of, less those that came
        self._panicked = False
        self.running = False
        self.console: list[str] = []
        self.caught: list[int] = []

    def run(self) -> int | None:
        """Relay until the guest has ended. Return its command's exit code, or None if it told none.

        Raises BenchError if some of the command's output is lost.
        """
        relay, ports = self._relay, self._ports
        with ExitStack() as stack:
            stack.callback(relay.close)
            interrupts = stack.enter_context(signals())
            if self._command.tty:
                stack.enter_context(_raw_terminal())
            relay.watch(ports["console"].fileno(), Lines(self._said).feed)
            for port, sink in self._sinks().items():
                relay.watch(ports[port].fileno(), partial(self._pass_on, port, sink))
            relay.watch(ports["control"].fileno(), Lines(self._told).feed)
            relay.watch(interrupts, self._forward, counts=False)
            if self._has_booted:
                self._booted()
            while not (ended := relay.run()) and self._comes_up():
                relay.expire(STANDS_STILL)
            if not ended:
                self._process.kill()
                relay.expire(None)
                relay.run()  # its last output
                if self.caught and self._code is None:  # it was asked to end, and did not
                    self._code = 128 + self.caught[0]
                if self.running and not self._panicked and self._code is None:
                    where = " ".join(self._command.argv[:3])
                    raise TimedOut("time is up", where=where, why=f"{self._command.timeout:g} s")
        if self._has_ended and any(self._left.values()) and not self.caught:
            lost = ", ".join(f"{left:,} bytes of {port}" for port, left in self._left.items() if left)
            raise BenchError("a guest has ended before its command's output was passed on", why=f"{lost} are lost")
        return self._code

    def _booted(self) -> None:
        """Give the guest its job."""
        control = self._ports["control"]
        control.settimeout(STANDS_STILL)
        with suppress(OSError):  # it has ended, or stands still: that is seen in any case
            control.sendall(self._job)
        control.settimeout(None)
        self._tell_size()
        self._feed_stdin()

    def _comes_up(self) -> bool:
        """Return True if the guest does not run its command yet and may still do so."""
        before, self._used = self._used, _processor_time(self._process.pid)
        return not (self.running or self._panicked or self._code is not None) and before < self._used < COMES_UP

    def _feed_stdin(self) -> None:
        """Pass on this process's stdin if the command is to read it. Otherwise it is left to whom it is for."""
        port = self._ports["in"]
        if not (self._command.stdin and _is_open(0)):
            port.shutdown(socket.SHUT_WR)
            return

        def feed(data: bytes) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                if data:
                    port.sendall(data)
                else:
                    port.shutdown(socket.SHUT_WR)

        self._relay.watch(0, feed, counts=False)

    def _sinks(self) -> dict[str, Callable[[bytes], None]]:
        """Return for each port of the command's output what is to be done with it."""
        return {"out": partial(write_all, 1), "err": partial(write_all, 2), "events": Lines(self._on_event).feed}

    def _pass_on(self, port: str, sink: Callable[[bytes], None], data: bytes) -> None:
        sink(data)
        self._left[port] -= len(data)
        if self._has_ended:
            self._relay.expire(_GOES_DOWN)  # the reader may be slow
            self._let_go()

    def _let_go(self) -> None:
        """Let the guest power off if all its command's output has arrived. QEMU drops what it has not passed on."""
        if not any(self._left.values()):
            with suppress(OSError):  # it is off
                self._ports["control"].shutdown(socket.SHUT_WR)

    def _told(self, line: bytes) -> None:
        if line == b"B":
            self._booted()
        elif line == b"R":
            self.running = True
            self._relay.expire(self._command.timeout)
        elif line.startswith(b"X"):
            code, *written = map(int, line[1:].split())
            self._code = code
            self._has_ended = True
            for port, count in zip(_OUTPUT, written, strict=True):
                self._left[port] += count
            self._relay.expire(_GOES_DOWN)
            self._let_go()

    def _said(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self.console.append(text)
        if PANIC in text and not self._panicked:
            self._panicked = True
            self._relay.expire(_GOES_DOWN)

    def _forward(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._tell_size()
                continue
            if not self.running or self.caught:  # the command has not begun, or was asked to end before
                self._code = 128 + number
                self._process.kill()
            self.caught.append(number)
            self._relay.expire(GRACE)
            self._tell(f"S{number}\n")

    def _tell_size(self) -> None:
        if self._command.tty:
            size = os.get_terminal_size(0)
            self._tell(f"W{size.lines} {size.columns}\n")

    def _tell(self, text: str) -> None:
        with suppress(OSError):
            self._ports["control"].sendall(text.encode())


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


def _processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    user, system = stat[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
