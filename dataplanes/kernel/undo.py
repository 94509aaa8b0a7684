"""The undoing of a change that is refused half-way."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from dataplanes.errors import BenchError


class Undo:
    """A list of undoing functions. If the change ends in an error, they are called, the last one first.

    Where a step may be refused half-way, its undoing function is entered before the step, so it must accept that the
    step was never done. The error that is raised is the one that ended the change.
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
                    error.fix = f"undoing was refused, too ({refused}): resync() restores the wanted state"
