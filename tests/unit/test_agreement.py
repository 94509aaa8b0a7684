"""By the instruction clock a series ends when its rounds agree; with a precision, when its interval is narrow."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import api
from bench.documents import Event, Goal, Round, Trial, TrialPlan
from bench.documents.agreement import LEAST, MOST, NOISE, Agreement, figure, within
from bench.kernels import Kernel
from dataplanes.errors import GuestPanic
from scenarios.axes import Axes
from tests.recorded import Replay, replay
from tests.unit.conftest import Bench

AT = Axes()
NEXT = TrialPlan("nft-lb", 9, False, 10)
REFERENCE = TrialPlan("direct", 9, False, 10)
COUNTED, TIMED = Goal("instructions", NOISE["instructions"]), Goal("wall", 0.02)
FEW, MANY = LEAST["instructions"], MOST["instructions"]


def rounds(*values: float, plane: str = "nft-lb", at: Axes = AT) -> list[Round]:
    return [Round(plane, "crr", at, number, value) for number, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("values", "reached"),
    [
        ((), False),
        ((100.0, 100.0), False),
        ((100.0, 100.4, 100.2), True),
        ((100.0, 100.4, 99.7), False),
        ((100.0, 100.4, 99.7, 100.0), False),  # a later round does not take back that two are apart
        ((0.0, 0.0, 0.0), True),  # all failed
        ((0.0, 100.0, 100.0), False),
    ],
)
def test_a_series_ends_when_three_rounds_agree(values: tuple[float, ...], reached: bool) -> None:
    assert Agreement(COUNTED, rounds(*values)).reached(NEXT) == reached


def test_each_series_is_for_itself() -> None:
    agreed = Agreement(COUNTED, rounds(1.0, 1.0, 1.0) + rounds(1.0, 2.0, 3.0, plane="ipvs-lb"))
    assert agreed.reached(NEXT)
    assert not agreed.reached(msgspec.structs.replace(NEXT, dataplane="ipvs-lb"))
    assert not agreed.reached(msgspec.structs.replace(NEXT, axes=Axes(services=10)))
    assert not agreed.reached(msgspec.structs.replace(NEXT, workload="rr"))


@given(st.lists(st.floats(900, 1100), min_size=FEW, max_size=MANY))
def test_what_has_agreed_lies_within_the_noise(values: list[float]) -> None:
    if Agreement(COUNTED, rounds(*values)).reached(NEXT):
        assert all(a / b - 1 <= NOISE["instructions"] + 1e-9 for a, b in itertools.permutations(values, 2))


# -- by the wall clock -------------------------------------------------------------------------------------------------


def timed(ratios: dict[str, list[float]], base: list[float], precision: float = TIMED.precision) -> Agreement:
    """The rounds of planes by their ratios to the reference, and its own rounds."""
    told = [Round("direct", "crr", AT, number, value) for number, value in enumerate(base, 1)]
    for plane, found in ratios.items():
        told += rounds(*(ratio * value for ratio, value in zip(found, base, strict=False)), plane=plane)
    return Agreement(Goal("wall", precision), told)


DRIFT = [1000.0, 700.0, 900.0, 400.0, 1100.0, 800.0]


def test_by_the_wall_clock_the_ratio_within_the_round_counts_and_not_the_machine() -> None:
    steady = [0.8, 0.805, 0.8, 0.81, 0.8, 0.8]
    assert timed({"nft-lb": steady}, DRIFT).reached(NEXT)
    assert not timed({"nft-lb": steady[:5]}, DRIFT[:5]).reached(NEXT)
    assert not timed({"nft-lb": [*steady[:5], 0.83]}, DRIFT).reached(NEXT)
    assert timed({"nft-lb": [*steady[:5], 0.83]}, DRIFT, 0.04).reached(NEXT)


def test_the_reference_is_measured_as_long_as_a_plane_at_its_point_needs_it() -> None:
    steady, restless = [0.8] * 6, [0.8, 0.9, 0.7, 0.8, 0.9, 0.8]
    assert timed({"nft-lb": steady}, DRIFT).reached(REFERENCE)
    assert not timed({"nft-lb": steady, "ipvs-lb": restless}, DRIFT).reached(REFERENCE)
    assert timed({"nft-lb": steady, "ipvs-lb": restless}, DRIFT).reached(NEXT)
    own = msgspec.structs.replace(REFERENCE, dataplane="direct@nft-lb")
    told = timed({"direct@nft-lb": restless, "nft-lb": restless, "ipvs-lb": steady}, DRIFT)
    assert told.reached(REFERENCE), "a platform's figures are divided by its own direct path"
    assert not timed({"direct@nft-lb": [1.0] * 6, "nft-lb": restless}, DRIFT).reached(own)
    elsewhere = msgspec.structs.replace(REFERENCE, axes=Axes(services=10))
    assert not timed({"nft-lb": steady}, DRIFT).reached(elsewhere)


def test_a_plane_or_a_reference_that_always_fails_is_not_measured_for_ever() -> None:
    assert timed({"nft-lb": [0.0] * 6}, DRIFT).reached(NEXT)
    assert timed({"nft-lb": [0.8] * 6}, [0.0] * 6).reached(NEXT)


def test_a_round_counts_when_both_sides_of_it_are_there() -> None:
    """Every second round begins with the planes, and the reference comes last."""
    told = timed({"nft-lb": [0.8] * 5}, DRIFT[:5])
    told.add(Round("nft-lb", "crr", AT, 6, 640.0))
    assert not told.reached(NEXT)
    told.add(Round("direct", "crr", AT, 6, 800.0))
    assert told.reached(NEXT)


def test_without_a_goal_every_round_is_done() -> None:
    assert Agreement(None, rounds(*[1.0] * 50)).needed([NEXT, REFERENCE]) == [NEXT, REFERENCE]


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_leaves_out_as_many_on_either_side(values: list[float]) -> None:
    low, high = within(values)
    assert low <= statistics.median(values) <= high
    assert sum(each < low for each in values) <= len(values) // 2
    assert within([-each for each in values]) == (-high, -low)
    if len(values) < 9:
        assert (low, high) == (min(values), max(values))


@pytest.mark.parametrize("number", [6, 9, 20, 50])
def test_the_interval_holds_the_true_median_of_lopsided_figures_as_often_as_it_says(number: int) -> None:
    draw = random.Random(20161012)
    held = 0
    for _ in range(4000):
        low, high = within([draw.expovariate(1.0) for _ in range(number)])
        held += low <= math.log(2) <= high
    assert 0.945 <= held / 4000 <= 0.99


def test_with_a_precision_a_run_by_the_wall_clock_goes_on_and_the_number_is_the_most() -> None:
    plan = api.plan("nft-lb", kernel="host", precision=0.02)
    assert plan.run.goal == TIMED
    assert max(trial.round for trial in plan.trials) == MOST["wall"]
    assert len(plan.run.seconds()) == 2 * (1 + LEAST["wall"])
    plan = api.plan("nft-lb", kernel="host", precision=0.02, rounds=20)
    assert max(trial.round for trial in plan.trials) == 20


def test_a_precision_by_the_instruction_clock_is_that_of_the_rounds(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = replay()  # rounds as they were: within a percent, and not alike
    assert bench(*RUN, "--precision", "50", "-o", "result.json").exit_code == 0
    measured = api.load("result.json")
    assert isinstance(measured, api.Measured)
    assert [row.n for row in measured.result.summary] == [FEW, FEW]


@pytest.mark.parametrize("wrong", ["0", "51", "-1", "two"])
def test_a_precision_that_cannot_be_is_refused(bench: Bench, wrong: str) -> None:
    assert bench(*RUN, "--precision", wrong).exit_code == 2


def test_a_round_that_failed_has_no_figure() -> None:
    trial = Trial("nft-lb", "seed", "crr", 1, False, {"connections_per_second": 5.0})
    assert figure(trial).value == 5.0
    assert figure(msgspec.structs.replace(trial, error="refused")).value == 0.0


RUN = (
    "run",
    "-d",
    "nft-lb",
    "--kernel",
    "debian-6.12",
    "--clock",
    "instructions",
    "--connections",
    "200",
    "--jobs",
    "1",
)


def asked(kernel: Kernel) -> list[tuple[str, int]]:
    assert isinstance(kernel, Replay)
    return [(trial.dataplane, trial.round) for job in kernel.jobs for trial in job.trials]


def alike(event: Event) -> Event:
    """Make all rounds of a plane agree."""
    if event.kind != "trial":
        return event
    return msgspec.structs.replace(event, data=event.data | {"figures": {"connections_per_second": 1000.0}})


def test_without_a_number_a_run_ends_when_its_rounds_agree(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = kernel = replay(edit=alike)
    done = bench(*RUN, "-o", "result.json")
    assert done.exit_code == 0, done.output
    assert "6 trials, and more where rounds disagree" in done.stderr
    assert sorted(asked(kernel)) == [(plane, n) for plane in ("direct", "nft-lb") for n in range(1, MANY + 1)]
    measured = api.load("result.json")
    assert isinstance(measured, api.Measured)
    assert [(row.dataplane, row.n) for row in measured.result.summary] == [("direct", FEW), ("nft-lb", FEW)]


def test_a_run_that_goes_on_counts_the_rounds_that_were_done(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = replay(after=5, then=down, edit=alike)  # both twice, and the reference for a third time
    assert bench(*RUN, "-o", "result.json").exit_code == 255
    machine["debian-6.12"] = kernel = replay(edit=alike)
    assert bench(*RUN, "-o", "result.json").exit_code == 0
    assert asked(kernel)[0] == ("nft-lb", 3)
    assert {plane for plane, _ in asked(kernel)} == {"nft-lb"}
    measured = api.load("result.json")
    assert isinstance(measured, api.Measured)
    assert [row.n for row in measured.result.summary] == [FEW, FEW]


def down() -> None:
    raise GuestPanic("the guest's kernel went down")


def test_by_the_wall_clock_the_number_is_fixed() -> None:
    trials = api.plan("nft-lb", kernel="host").trials
    assert [trial.round for trial in trials if trial.dataplane == "nft-lb"] == [0, 1, 2, 3, 4, 5]
