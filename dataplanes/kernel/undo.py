"""The way back of a change that is under way."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from dataplanes.errors import BenchError


class Undo:
    """Called with each step's way back; where the change ends in an error, the ways back are taken, the last one first.

    A way back is entered before its step where the step may be refused half-way: it must not mind what was never done.
    The error that is told is the one the change ended in.
    """

    def __init__(self) -> None:
        self._ways: list[Callable[[], object]] = []

    def __call__(self, way: Callable[[], object]) -> None:
        self._ways.append(way)

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return
        for way in reversed(self._ways):
            try:
                way()
            except BenchError as refused:
                if isinstance(error, BenchError) and not error.fix:
                    error.fix = f"the way back was refused, too ({refused}): resync() restores what is wanted"
