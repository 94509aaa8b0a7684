"""A relay of bytes and signals between this process and a command until it ends, in one thread."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from dataplanes.kernel import interrupt

GRACE = 60.0
"""Seconds that a command gets to clean up after a signal, or after its time is up."""


class Lines:
    """A splitter of a stream into lines."""

    def __init__(self, act: Callable[[bytes], None]) -> None:
        self._act = act
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Act on every complete line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._act(line)


@contextmanager
def signals() -> Iterator[int]:
    """Yield a descriptor that receives the numbers of the signals to forward, instead of their default actions."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)

    def ignore(number: int, frame: FrameType | None) -> None:
        """Do nothing: the wake-up descriptor has the signal."""

    taken = (*interrupt.taken(), signal.SIGWINCH)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)  # first, so that no signal is lost
    before = {number: signal.signal(number, ignore) for number in taken}
    try:
        yield ours.fileno()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        ours.close()
        theirs.close()


def write_all(handle: int, data: bytes) -> None:
    """Write to a descriptor that may be full or non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(handle, view) :]
        except BlockingIOError:
            with selectors.DefaultSelector() as selector:
                selector.register(handle, selectors.EVENT_WRITE)
                selector.select()


def exit_code(code: int, caught: Sequence[int]) -> int:
    """Return the exit code, unless the command ended by a signal that this process caught for it.

    In that case the signal ends this process as well: raise KeyboardInterrupt with its number.
    """
    for number in caught:
        if code == 128 + number:
            interrupt.strike(number)
    return code


class Relay:
    """An event loop over descriptors, with a deadline."""

    def __init__(self, timeout: float | None) -> None:
        self._selector = selectors.DefaultSelector()
        self.expire(timeout)
        self.open = 0

    def expire(self, seconds: float | None) -> None:
        """Set the deadline, in seconds from now. None means that there is none."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def watch(self, handle: int, act: Callable[[bytes], None], *, counts: bool = True) -> None:
        """Hand arriving bytes to `act`, and b"" at the end. Descriptors that count keep the loop running."""
        try:
            self._selector.register(handle, selectors.EVENT_READ, (act, counts))
        except PermissionError:  # epoll refuses plain files, which are always ready
            while data := os.read(handle, 65536):
                act(data)
            act(b"")
            return
        self.open += counts

    def forget(self, handle: int) -> None:
        """Stop watching a descriptor. Idempotent."""
        try:
            _, counts = self._selector.unregister(handle).data
        except KeyError:
            return
        self.open -= counts

    def run(self) -> bool:
        """Run until every descriptor that counts has ended. Return False if time runs out first."""
        while self.open:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            for key, _ in self._selector.select(left):
                self._serve(key.fd, *key.data)
        return True

    def _serve(self, handle: int, act: Callable[[bytes], None], counts: bool) -> None:
        try:
            data = os.read(handle, 1 << 16)
        except BlockingIOError:
            return
        except OSError:  # the other end of a pty or a socket is closed
            data = b""
        if not data:
            self.forget(handle)
        act(data)

    def close(self) -> None:
        """Close the selector. The descriptors stay open."""
        self._selector.close()
