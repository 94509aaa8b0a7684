"""The permitted ends of a command for any input: an exit code of ours, and a line that says why."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from click.testing import CliRunner, Result

from bench.cli.main import main
from bench.report import answer, page  # noqa: F401

_CODES = (0, 1, 2, 3, 4)
_REFUSED = 2
_SECONDS = 1.0
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yield the processor time of the block without the garbage collector's, which a long campaign makes large."""
    took: list[float] = []
    gc.disable()
    begun = time.process_time()
    try:
        yield lambda: took[0]
    finally:
        took.append(time.process_time() - begun)
        gc.enable()


def end(arguments: Sequence[str]) -> Result:
    """Run a command in this process, and check how it ends.

    Fails on a traceback, an unknown exit code, a control character, an error of more than one line, or a refusal that
    took more than a second of processor time.
    """
    with timed() as took:
        done = CliRunner().invoke(main, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in _CODES, done.output
    assert not _CONTROL.search(done.output), repr(done.output)
    if done.exit_code >= _REFUSED:
        assert done.stderr.strip(), "it says nothing"
        assert took() < _SECONDS, f"{took():.1f} s for {done.stderr}"
    if done.stderr.startswith("bench: "):
        assert len(done.stderr.splitlines()) == 1, done.stderr
    return done
