"""Signals that end a run: where they may strike, and how none is lost.

A Python handler's exception strikes between any two instructions. That is fine where everything made is written down
first, but not between entering a namespace and returning from it (`held`); and in a finalizer (a generator that is
closed, a `__del__`) Python prints it and goes on. `check` notices that: called before anything is made or waited for.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_caught: list[int] = []


def catch() -> None:
    """From now on the first of SIGNALS raises KeyboardInterrupt with its number, and no other is taken."""
    for number in SIGNALS:
        signal.signal(number, _interrupted)


def _interrupted(number: int, frame: object) -> NoReturn:
    _caught.append(number)
    for each in SIGNALS:  # a second one must not cut the clean-up short
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def check() -> None:
    """Raise KeyboardInterrupt again if it was raised before: whoever makes something new has not heard of it."""
    if _caught:
        raise KeyboardInterrupt(_caught[0])


@contextmanager
def held() -> Iterator[None]:
    """Signals wait until the block is done; at most a few system calls."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
