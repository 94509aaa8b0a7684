"""The order of trials, and the joint result of the rounds."""

from __future__ import annotations

import pytest

from bench.analysis.intervals import interval, paired, summarise, unpaired
from bench.documents import Interval, Trial, TrialPlan, Work
from bench.outside.rounds import Series, interleave
from dataplanes.selection import REFERENCE, Selection
from scenarios.axes import Axes

A, B = Selection("a@x+y=1", "a"), Selection("b", "b")
FEW, MANY = Axes(services=10), Axes(services=100)


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


def shown(plans: list[TrialPlan], *, warmup: bool = False) -> list[tuple[str, str, int]]:
    """Workload, plane and services of the trials of the first round, or of the warm-ups."""
    wanted = 0 if warmup else 1
    return [(plan.workload, plan.dataplane, plan.axes.services) for plan in plans if plan.round == wanted]


def test_a_round_has_every_plane_at_every_point_of_every_workload() -> None:
    plans = interleave([REFERENCE, A], 1, connections=1000, series=[Series(("crr", "rr"), (FEW, MANY))])
    names = ("direct", "a@x+y=1")
    assert shown(plans) == [(w, name, at) for w in ("crr", "rr") for at in (10, 100) for name in names]
    assert {plan.connections for plan in plans if plan.round == 1} == {1000}
    assert {plan.warmup for plan in plans if plan.round == 1} == {False}


def test_a_plane_is_warmed_up_once_at_the_first_point_or_for_each_workload() -> None:
    series = [Series(("crr", "rr"), (FEW, MANY)), Series(("crr",), (MANY,))]
    assert shown(interleave([REFERENCE, A], 1, connections=1000, series=series), warmup=True) == [
        ("crr", "direct", 10),
        ("crr", "a@x+y=1", 10),
    ]
    warm = interleave([REFERENCE, A], 1, connections=1000, series=series, warm="workload")
    assert shown(warm, warmup=True) == [
        (workload, name, 10) for workload in ("crr", "rr") for name in ("direct", "a@x+y=1")
    ]


def test_a_warm_up_makes_a_tenth_of_the_connections_and_as_many_as_are_open_at_once() -> None:
    plans = interleave([REFERENCE], 1, connections=1005, series=[Series(points=(Axes(concurrency=64),))])
    assert [plan.connections for plan in plans] == [100, 1005]
    assert isinstance(plans[0].connections, int)
    plans = interleave([REFERENCE], 1, connections=200, series=[Series(points=(Axes(concurrency=64),))])
    assert [plan.connections for plan in plans] == [64, 200]


def test_a_trial_that_two_series_ask_for_is_in_a_round_once() -> None:
    plans = interleave([A, B], 2, connections=100, series=[Series(("crr",), (FEW,)), Series(("crr",), (FEW, MANY))])
    keys = [plan.key() for plan in plans]
    assert len(keys) == len(set(keys)) == 2 + 2 * 4


def test_some_planes_are_left_out_of_a_series_whatever_their_variant() -> None:
    plans = interleave(
        [REFERENCE, A, B], 1, connections=100, series=[Series(("crr",), (FEW,), ("a",)), Series(("rr",), (FEW,))]
    )
    assert shown(plans) == [
        *(("crr", name, 10) for name in ("direct", "b")),
        *(("rr", name, 10) for name in ("direct", "a@x+y=1", "b")),
    ]


def test_what_needs_a_vip_is_not_asked_of_the_direct_path_nor_programming_without_services() -> None:
    series = [Series(("program", "churn"), (Axes(), FEW))]
    assert shown(interleave([REFERENCE, A], 1, connections=100, series=series)) == [
        ("program", "a@x+y=1", 10),
        ("churn", "a@x+y=1", 0),
        ("churn", "a@x+y=1", 10),
    ]
    (warm,) = interleave([REFERENCE, A], 0, connections=100, series=[Series(("program",), (Axes(), FEW))])
    assert (warm.dataplane, warm.axes) == ("a@x+y=1", FEW), "at the first point at which there is something to do"


def test_interval_holds_the_median_and_says_nothing_below_three() -> None:
    assert interval([1.0, 3.0]).low is None
    found = interval([10.0, 11.0, 12.0, 13.0, 20.0])
    assert found.low is not None
    assert found.high is not None
    assert 10 <= found.low <= found.value == 12 <= found.high <= 20
    same = interval([5.0, 5.0, 5.0])
    assert (same.low, same.value, same.high) == (5, 5, 5)
    many = [number**1.5 for number in range(1, 15)]
    assert interval(many) == interval(many), "the resamples are the same every time"


def test_an_interval_is_there_where_bca_has_none() -> None:
    """Every median without one of these is 1: the acceleration is 0 / 0, and the percentile interval is taken."""
    found = interval([1, 1, 1, 1, 2])
    assert (found.value, found.low) == (1, 1)
    assert found.high == 2


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [3.0, 1.0, 2.0, 8.0, 5.0, 4.0], [10.0, 10.5, 11.0, 30.0]])
def test_an_interval_covers_what_rounds_say(values: list[float]) -> None:
    """It is wider than nothing, lies within the values, and does not depend on their unit."""
    found, tenfold = interval(values), interval([10 * value for value in values])
    assert found.low is not None
    assert found.high is not None
    assert min(values) <= found.low < found.value < found.high <= max(values)
    assert (tenfold.low, tenfold.value, tenfold.high) == pytest.approx(
        (10 * found.low, 10 * found.value, 10 * found.high)
    )


def test_ratio_is_paired_by_round() -> None:
    found = paired({1: 50.0, 2: 100.0, 3: 25.0}, {1: 100.0, 2: 200.0, 3: 50.0})
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert paired({1: 1.0}, {2: 1.0}) is None


def trial(name: str, number: int, rate: float, *, warmup: bool = False, error: str = "") -> Trial:
    figures = {"connections_per_second": rate, "connect_p50_us": 1e6 / (rate or 1)}
    work = Work(errors={"timeout_connect": 1}, backends={"1": 10, "2": 10})
    return Trial(name, "seed", "crr", number, warmup, {} if error else figures, error, work=Work() if error else work)


def test_a_clock_that_does_not_drift_needs_no_pairs() -> None:
    rates = {"direct": (1000.0, 1002.0, 998.0), "a": (800.0, 801.0, 799.0, 800.5, 640.0)}
    trials = [trial(name, number, rate) for name, each in rates.items() for number, rate in enumerate(each, 1)]
    plane = summarise(trials, drifts=False)[1].ratio_to_direct
    assert plane is not None
    assert plane.value == pytest.approx(0.8)
    assert plane.low is not None
    assert plane.high is not None
    assert 640 / 1002 <= plane.low <= 640 / 998  # one of five is part of the interval, of seven it is not
    assert plane.high <= 801 / 998
    assert unpaired([800.0] * 6 + [640.0], [1000.0] * 7) == Interval(0.8, 0.8, 0.8)
    assert unpaired([800.0, 801.0], [1000.0] * 3) == Interval(800.5 / 1000)
    assert unpaired([], [1000.0]) is None


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


def test_summaries_are_of_a_workload_a_point_and_a_plane() -> None:
    trials = [
        Trial(name, "seed", workload, 1, False, {"connections_per_second": rate}, axes=at)
        for workload, at, name, rate in (
            *(("crr", FEW, "direct", 100.0), ("crr", FEW, "a", 50.0)),
            *(("crr", MANY, "a", 40.0), ("crr-rst", FEW, "a", 30.0)),
        )
    ]
    found = summarise(trials)
    assert [(row.workload, row.axes, row.dataplane, row.scenario) for row in found] == [
        ("crr", FEW, "direct", "seed"),
        ("crr", FEW, "a", "seed"),
        ("crr", MANY, "a", "seed"),
        ("crr-rst", FEW, "a", "seed"),
    ]
    assert [row.ratio_to_direct and row.ratio_to_direct.value for row in found] == [1, pytest.approx(0.5), None, None]
    assert [row.note for row in found] == [""] * 4
    (based,) = [row for row in summarise(trials, base="a") if row.dataplane == "direct"]
    assert based.ratio_to_direct
    assert based.ratio_to_direct.value == pytest.approx(2)


def test_a_platforms_reference_is_its_own_direct_path() -> None:
    rates = {"direct": 1000.0, "a": 500.0, "direct@swarm@26.1": 800.0, "swarm@26.1": 400.0, "swarm@20.10": 400.0}
    found = summarise([trial(name, number, rate) for number in (1, 2) for name, rate in rates.items()], drifts=False)
    ratios = {row.dataplane: row.ratio_to_direct and row.ratio_to_direct.value for row in found}
    assert ratios == pytest.approx(
        {"direct": 1.0, "a": 0.5, "direct@swarm@26.1": 1.0, "swarm@26.1": 0.5, "swarm@20.10": 0.4}
    )


def test_a_plane_that_failed_has_no_number_but_a_reason() -> None:
    _, plane = summarise([trial("direct", 1, 1000.0), trial("a", 1, 0, error="a: 3 of 6 connections failed")])
    assert (plane.n, plane.figures, plane.ratio_to_direct) == (0, {}, None)
    assert plane.note == "a: 3 of 6 connections failed"
