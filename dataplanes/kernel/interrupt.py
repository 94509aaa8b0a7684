"""Signals that end a run: where they may strike, and how none is lost.

A Python handler's exception strikes between any two instructions. That is fine where everything made is written down
first, but not between entering a namespace and returning from it (`held`); and in a finalizer (a generator that is
closed, a `__del__`) Python would print it and go on. `check` notices that: called before anything is made or waited
for.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_caught: list[int] = []
_hook_before: Callable[[sys.UnraisableHookArgs], object] = sys.__unraisablehook__


def taken() -> tuple[int, ...]:
    """Those of SIGNALS that are not ignored: who started us under nohup(1) does not want its signal to end us."""
    return tuple(number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


def catch() -> None:
    """From now on the first of SIGNALS raises KeyboardInterrupt with its number, and no other is taken.

    One that came while they were blocked, since before this process was python, is the first.
    """
    for number in taken():
        signal.signal(number, _interrupted)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    global _hook_before
    if sys.unraisablehook is not _unraisable:
        _hook_before = sys.unraisablehook
        sys.unraisablehook = _unraisable


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    """What Python cannot raise it prints. Once a signal has struck that is the signal, or what it broke off."""
    if not _caught:
        _hook_before(told)


def _interrupted(number: int, frame: object) -> NoReturn:
    strike(number)


def strike(number: int) -> NoReturn:
    """End as of this signal: raise KeyboardInterrupt with its number."""
    _caught.append(number)
    for each in SIGNALS:  # a second one must not cut the clean-up short
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def strike_again() -> None:
    """Raise KeyboardInterrupt again if it was raised before: whoever makes something new has not heard of it."""
    if _caught:
        raise KeyboardInterrupt(_caught[0])


@contextmanager
def prevailing() -> Iterator[None]:
    """A signal that struck in the block is why it ends, though the clean-up stumbled over what the signal broke off."""
    try:
        yield
    except Exception:
        strike_again()
        raise


@contextmanager
def held() -> Iterator[None]:
    """Signals wait until the block is done; at most a few system calls."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
