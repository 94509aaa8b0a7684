"""How many connections a trial makes by default."""

from __future__ import annotations

import pytest

from bench import api


@pytest.mark.parametrize(("plane", "count"), [("ipvs-lb", 1000), ("swarm@26.1", 4000)])
def test_a_trial_of_a_platform_makes_more_connections(plane: str, count: int) -> None:
    planned = api.plan(plane, kernel="guest", clock="instructions")
    assert {trial.connections for trial in planned.trials if trial.workload == "crr"} == {count}
