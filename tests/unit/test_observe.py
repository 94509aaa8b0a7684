"""Checks that idle wait side by side, and one that fails does not end the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from bench.documents import Event
from bench.inside import trial
from bench.inside.observe import _Observer
from dataplanes import catalog
from dataplanes.errors import BenchError, NotApplicable, Unsupported
from scenarios import checks, stopwatch
from scenarios.checks import Cell, Check, Waiting
from scenarios.checks.world import Differs, World


class Clock:
    """A clock that advances only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: made.now)
    monkeypatch.setattr(time, "sleep", made.sleep)
    return made


class Bare(World):
    """A stand-in for a lab: these checks look at nothing."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.rests = 0

    def at_rest(self) -> AbstractContextManager[object]:
        self.rests += 1
        return nullcontext()


def named(name: str, observe: Callable[[World], str | Waiting]) -> Check:
    return Check(name, "It holds.", "D1", "seed", observe, idles=True)


def idle(*waits: float) -> Callable[[World], Waiting]:
    def observe(world: World) -> Waiting:
        yield from waits
        return f"after {time.monotonic():g} s"

    return observe


def test_idle_time_is_shared_and_each_goes_on_when_its_own_is_over(clock: Clock) -> None:
    wanted = [named("long", idle(1000, 2600)), named("short", idle(200)), named("middle", idle(1000))]
    world = Bare()
    cells = list(checks.observe(wanted, world, "nft-lb"))
    assert world.rests == 1, "what keeps the testbed in order stands still until the last one ends"
    assert [(cell.check, cell.detail) for cell in cells] == [
        ("short", "after 200 s"),
        ("middle", "after 1000 s"),
        ("long", "after 3600 s"),
    ]
    assert clock.now == 3600
    assert cells[-1].seconds == 3600


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Differs("seen otherwise"), "fail"),
        (ConnectionRefusedError("refused"), "fail"),
        (FileNotFoundError("a file of the lab's"), "error"),
        (BenchError("the plane"), "error"),
        (ValueError("the check itself"), "error"),
    ],
)
def test_what_goes_wrong_after_waiting_is_that_check_s_alone(clock: Clock, error: Exception, outcome: str) -> None:
    def wrong(world: World) -> Waiting:
        yield 10
        raise error

    cells = {cell.check: cell for cell in checks.observe([named("wrong", wrong), named("well", idle(20))], Bare(), "p")}
    assert cells["wrong"].outcome == outcome
    assert str(error) in cells["wrong"].detail
    assert cells["well"].outcome == "pass"


def test_an_obstacle_of_the_kernel_s_is_a_skip_with_its_reason() -> None:
    there = Check("a.b", "It holds.", "D1", "seed", lambda world: "seen", obstacle=lambda: "")
    absent = Check("a.b", "It holds.", "D1", "seed", lambda world: "seen", obstacle=lambda: "no such protocol")
    assert checks.skipped(there, "wall") == ""
    assert checks.skipped(absent, "wall") == "no such protocol"


def test_a_limit_of_the_whole_machine_is_changed_only_where_the_machine_is_a_guest() -> None:
    each = Check("a.b", "It holds.", "D1", "seed", lambda world: "seen", machine=True)
    assert checks.skipped(each, "instructions") == ""
    assert "only in a guest" in checks.skipped(each, "wall")


def test_a_cell_in_which_the_clock_leapt_is_an_error(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meter = tmp_path / "waited"
    monkeypatch.setattr(stopwatch, "_METER", str(meter))

    def waits(seconds: float) -> Callable[[World], str]:
        def observe(world: World) -> str:
            passed = int.from_bytes(meter.read_bytes(), "little") + int(seconds * 1e9)
            meter.write_bytes(passed.to_bytes(8, "little"))
            return "seen"

        return observe

    meter.write_bytes(bytes(8))
    (short,) = checks.observe([named("short", waits(0.9))], Bare(), "nft-lb")
    (long,) = checks.observe([named("long", waits(1.1))], Bare(), "nft-lb")
    assert (short.outcome, short.detail) == ("pass", "seen")
    assert (long.outcome, long.detail) == (
        "error",
        "the guest's clock went on for 1.1 s while it waited for files (try again on a machine that is less busy); "
        "seen was: pass: seen",
    )


@pytest.mark.parametrize(
    ("plane", "own", "name", "as_expected"),
    [
        ("nft-lb", "", "reach.other-service", False),
        ("nft-lb", "", "idle.udp-400s", True),  # on this clock nobody can observe it
        ("nft-lb", "seed", "reach.other-service", True),  # a scenario may lack what checks know
        ("swarm@26.1", "", "reach.other-service", True),  # so may a platform
    ],
)
def test_a_check_that_does_not_apply_to_the_lab_of_its_own_scenario_is_at_fault(
    plane: str, own: str, name: str, as_expected: bool
) -> None:
    told: list[Event] = []
    (selection,) = catalog.select(plane)
    observer = _Observer(selection, "matrix", "wall", told.append, None, own)
    assert observer._report(Cell(plane, name, "skip", "not applicable: nobody stands for it", 0.0)) is as_expected
    assert told[0].data["expected"] == ("skip" if as_expected else "pass")


@pytest.mark.parametrize(
    ("error", "outcome", "detail"),
    [
        (NotApplicable("a swarm has no weights"), "skip", "not applicable: a swarm has no weights"),
        (Unsupported("it cannot"), "fail", "no lab: it cannot"),
        (BenchError("it broke"), "error", "no lab: it broke"),
    ],
)
def test_a_lab_that_cannot_be_is_told(
    error: BenchError, outcome: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(trial, "observed", cannot)
    told: list[Event] = []
    (selection,) = catalog.select("swarm@26.1")
    observer = _Observer(selection, "matrix", "wall", told.append, None, "")
    observer.observe([checks.CHECKS["reach.other-service"]])
    assert [(event.data["outcome"], event.data["detail"]) for event in told] == [(outcome, detail)]
