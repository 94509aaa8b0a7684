"""The order of trials, and the joint result of the rounds."""

from __future__ import annotations

import pytest

from bench.analysis.intervals import interval, ratio, summarise
from bench.documents import Trial, Work
from bench.outside.rounds import interleave
from dataplanes.selection import REFERENCE, Selection


def test_rounds_are_interleaved_and_every_second_one_reversed() -> None:
    plans = interleave([REFERENCE, Selection("a", "a"), Selection("b", "b")], 3, connections=1000)
    assert [(plan.round, plan.dataplane) for plan in plans] == [
        (0, "direct"),
        (0, "a"),
        (0, "b"),
        (1, "direct"),
        (1, "a"),
        (1, "b"),
        (2, "b"),
        (2, "a"),
        (2, "direct"),
        (3, "direct"),
        (3, "a"),
        (3, "b"),
    ]
    assert [plan.warmup for plan in plans] == [True] * 3 + [False] * 9
    assert {plan.connections for plan in plans if plan.warmup} == {100}


def test_interval_holds_the_median_and_says_nothing_below_three() -> None:
    assert interval([1.0, 3.0]).low is None
    found = interval([10.0, 11.0, 12.0, 13.0, 20.0])
    assert found.low is not None
    assert found.high is not None
    assert 10 <= found.low <= found.value == 12 <= found.high <= 20
    same = interval([5.0, 5.0, 5.0])
    assert (same.low, same.value, same.high) == (5, 5, 5)


def test_ratio_is_paired_by_round() -> None:
    found = ratio({1: 50.0, 2: 100.0, 3: 25.0}, {1: 100.0, 2: 200.0, 3: 50.0})
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert ratio({1: 1.0}, {2: 1.0}) is None


def trial(name: str, number: int, rate: float, *, warmup: bool = False, error: str = "") -> Trial:
    figures = {"connections_per_second": rate, "connect_p50_us": 1e6 / (rate or 1)}
    work = Work(errors={"timeout_connect": 1}, backends={"1": 10, "2": 10})
    return Trial(name, "seed", "crr", number, warmup, {} if error else figures, error, work=Work() if error else work)


def test_summary_leaves_out_warm_ups_and_adds_up_errors_and_backends() -> None:
    trials = [trial("direct", 0, 1.0, warmup=True), trial("a", 0, 1.0, warmup=True)]
    trials += [trial(name, n, rate) for n in (1, 2, 3) for name, rate in (("direct", 1000.0), ("a", 800.0))]
    direct, plane = summarise(trials)
    assert (direct.dataplane, direct.n, plane.n) == ("direct", 3, 3)
    assert plane.figures["connections_per_second"].value == 800
    assert plane.figures["connect_p50_us"].value == pytest.approx(1250)
    assert plane.ratio_to_direct is not None
    assert plane.ratio_to_direct.value == pytest.approx(0.8)
    assert plane.errors == {"timeout_connect": 3}
    assert plane.backends == {"1": 30, "2": 30}


def test_a_plane_that_failed_has_no_number_but_a_reason() -> None:
    _, plane = summarise([trial("direct", 1, 1000.0), trial("a", 1, 0, error="a: 3 of 6 connections failed")])
    assert (plane.n, plane.figures, plane.ratio_to_direct) == (0, {}, None)
    assert plane.note == "a: 3 of 6 connections failed"
