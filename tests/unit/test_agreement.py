"""By the instruction clock a series ends when its rounds agree, and not before."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import api
from bench.documents import Event, Round, Trial, TrialPlan
from bench.documents.agreement import LEAST, MOST, NOISE, Agreement, figure
from bench.kernels import Kernel
from dataplanes.errors import GuestPanic
from scenarios.axes import Axes
from tests.recorded import Replay, replay
from tests.unit.conftest import Bench

AT = Axes()
NEXT = TrialPlan("nft-lb", 4, False, 10)


def rounds(*values: float, plane: str = "nft-lb", at: Axes = AT) -> list[Round]:
    return [Round(plane, "crr", at, value) for value in values]


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
    assert Agreement(rounds(*values)).reached(NEXT) == reached


def test_each_series_is_for_itself() -> None:
    agreed = Agreement(rounds(1.0, 1.0, 1.0) + rounds(1.0, 2.0, 3.0, plane="ipvs-lb"))
    assert agreed.reached(NEXT)
    assert not agreed.reached(msgspec.structs.replace(NEXT, dataplane="ipvs-lb"))
    assert not agreed.reached(msgspec.structs.replace(NEXT, axes=Axes(services=10)))
    assert not agreed.reached(msgspec.structs.replace(NEXT, workload="rr"))


@given(st.lists(st.floats(900, 1100), min_size=LEAST, max_size=MOST))
def test_what_has_agreed_lies_within_the_noise(values: list[float]) -> None:
    if Agreement(rounds(*values)).reached(NEXT):
        assert all(a / b - 1 <= NOISE["instructions"] + 1e-9 for a, b in itertools.permutations(values, 2))


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
    assert sorted(asked(kernel)) == [(plane, n) for plane in ("direct", "nft-lb") for n in range(1, MOST + 1)]
    measured = api.load("result.json")
    assert isinstance(measured, api.Measured)
    assert [(row.dataplane, row.n) for row in measured.result.summary] == [("direct", LEAST), ("nft-lb", LEAST)]


def test_a_run_that_goes_on_counts_the_rounds_that_were_done(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = replay(after=5, then=down, edit=alike)  # both twice, and the reference for a third time
    assert bench(*RUN, "-o", "result.json").exit_code == 255
    machine["debian-6.12"] = kernel = replay(edit=alike)
    assert bench(*RUN, "-o", "result.json").exit_code == 0
    assert asked(kernel)[0] == ("nft-lb", 3)
    assert {plane for plane, _ in asked(kernel)} == {"nft-lb"}
    measured = api.load("result.json")
    assert isinstance(measured, api.Measured)
    assert [row.n for row in measured.result.summary] == [LEAST, LEAST]


def down() -> None:
    raise GuestPanic("the guest's kernel went down")


def test_by_the_wall_clock_the_number_is_fixed() -> None:
    trials = api.plan("nft-lb", kernel="host").trials
    assert [trial.round for trial in trials if trial.dataplane == "nft-lb"] == [0, 1, 2, 3, 4, 5]
