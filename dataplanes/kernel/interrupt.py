"""Signals that end a run: where they may strike, and how none is lost.

The exception of a Python signal handler strikes between any two instructions. That is fine wherever every created thing
is recorded first. It is not fine between entering a namespace and returning from it, so `held` delays it there. In a
finalizer (a generator that is closed, a `__del__`) Python would print the exception and go on. `strike_again` notices
that. It is called before anything is created or waited for.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from dataplanes.errors import BenchError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_caught: list[int] = []
_hook_before: Callable[[sys.UnraisableHookArgs], object] = sys.__unraisablehook__


def taken() -> tuple[int, ...]:
    """Return those of SIGNALS that are not ignored.

    A user who started us under nohup(1) does not want its signal to end us.
    """
    return tuple(number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


def catch() -> None:
    """From now on, raise KeyboardInterrupt with the number of the first of SIGNALS, and take no other.

    A signal that came while they were blocked, even before this process became python, is the first.
    """
    for number in taken():
        signal.signal(number, _interrupted)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    global _hook_before
    if sys.unraisablehook is not _unraisable:
        _hook_before = sys.unraisablehook
        sys.unraisablehook = _unraisable


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    """Print an exception that Python cannot raise, unless a signal has struck.

    After a signal the exception is the signal's own, or a consequence of it.
    """
    if not _caught:
        _hook_before(told)


def _interrupted(number: int, frame: object) -> NoReturn:
    strike(number)


def strike(number: int) -> NoReturn:
    """End the run as if by this signal: raise KeyboardInterrupt with its number."""
    _caught.append(number)
    for each in SIGNALS:  # a second signal must not cut the clean-up short
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def strike_again() -> None:
    """Raise KeyboardInterrupt again if it was raised before.

    The caller creates something, and has not seen the exception.
    """
    if _caught:
        raise KeyboardInterrupt(_caught[0])


def exit_code(act: Callable[[], int], failed: Callable[[BenchError], object]) -> int:
    """Take signals, and return a process's exit code: that of `act`, that of its error, or 128 + n after signal n.

    `failed` is called with the error. A signal may strike meanwhile: who ends several processes because one has failed
    sends it to those that are just about to say the same. It may also have come before, and strike as soon as it can.
    """
    try:
        catch()
        try:
            return act()
        except BenchError as error:
            failed(error)
            return error.exit_code
    except KeyboardInterrupt as caught:
        return 128 + (caught.args[0] if caught.args else signal.SIGINT)


@contextmanager
def prevailing() -> Iterator[None]:
    """Let a signal be the reason why the block ends, even if the clean-up failed on what the signal broke off."""
    try:
        yield
    except Exception:
        strike_again()
        raise


@contextmanager
def held() -> Iterator[None]:
    """Delay signals until the block is done. The block makes a few system calls at most."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
