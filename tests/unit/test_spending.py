"""What following costs is found from the same work without programs and with them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dataplanes.spending import Around, Effort, Spending, around, effort

WORK, PROGRAM = 20_000, 900
"""The instructions of some work, and of a program."""


class Kernel:
    """A kernel with a clock of instructions. Each call of a program takes some more than the program."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, probes: int, points: int, others: Iterator[int]) -> None:
        self.now, self.probes, self.points, self.others = 0, probes, points, others
        self.spent = Spending()
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)

    def work(self) -> None:
        own = PROGRAM * (self.probes + self.points)
        self.now += WORK + own + 310 * self.probes + 70 * self.points + next(self.others)
        spent = self.spent
        self.spent = Spending(spent.time + own, spent.probes + self.probes, spent.points + self.points)

    def spending(self) -> Spending:
        self.now += 123  # nothing of it belongs to the work
        return self.spent


def found(monkeypatch: pytest.MonkeyPatch, probes: int, points: int) -> Effort:
    others = iter([4_000, 0, *[7_000] * 80])  # what else a kernel does now and then
    kernel = Kernel(monkeypatch, probes=probes, points=points, others=others)
    return effort(kernel.work, kernel.spending)


def test_what_calls_take_is_found_for_probes_and_for_tracepoints(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, points, both = (found(monkeypatch, *each) for each in ((0, 0), (0, 3), (6, 3)))
    assert (bare, points.rest) == (Effort(WORK), WORK + 3 * 70)
    assert around(bare, points, both) == Around(310, 70)


def test_work_that_meets_no_program_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = found(monkeypatch, 0, 0)
    assert around(bare, bare, bare) == Around()
