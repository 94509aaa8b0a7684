"""A run that is cut short goes on where it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.documents import Event, Trial, TrialPlan
from bench.outside.store import Store
from dataplanes.errors import Usage
from scenarios.axes import Axes

PLANS = [TrialPlan("a", number, False, 10, axes=Axes(services=5)) for number in range(3)]

FIGURES = {"install_ms": 1.5}
ENVIRONMENT = {"kernel": "6.1", "clock": "instructions"}


def ended(plan: TrialPlan) -> Event:
    trial = Trial(plan.dataplane, "seed", plan.workload, plan.round, plan.warmup, FIGURES, axes=plan.axes)
    return Event("trial", data=msgspec.to_builtins(trial))


def test_what_ended_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "x.json.trials"
    first = Store(path, ["run", 1])
    first.add(Event("environment", data=ENVIRONMENT))
    first.add(Event("stage", "ready"))
    first.add(ended(PLANS[0]))
    first.close(discard=False)
    again = Store(path, ["run", 1])
    assert again.left(PLANS) == PLANS[1:]
    assert (again.trials[0].figures, again.environment) == (FIGURES, ENVIRONMENT)
    again.add(ended(PLANS[1]))
    again.close(discard=True)
    assert not path.exists()


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "x.json.trials"
    store = Store(path, "run")
    for plan in PLANS:
        store.add(ended(plan))
    store.close(discard=False)
    path.write_bytes(path.read_bytes()[:-20])
    again = Store(path, "run")
    assert again.left(PLANS) == PLANS[2:]
    again.add(ended(PLANS[2]))
    again.close(discard=False)
    whole = Store(path, "run")
    assert whole.left(PLANS) == []
    whole.close(discard=True)


def test_another_runs_trials_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "x.json.trials"
    store = Store(path, "one run")
    store.add(ended(PLANS[0]))
    store.close(discard=False)
    other = Store(path, "another")
    assert other.left(PLANS) == PLANS
    assert (store.replaced, other.replaced) == ("", "of another run, program or kernel")
    other.close(discard=True)


def test_nowhere_to_keep_them_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="cannot write the trials"):
        Store(tmp_path / "none" / "x.json.trials", "run")
