"""A trial in which the instruction clock leapt is measured again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from bench.documents import Trial, TrialPlan
from bench.inside import trial
from dataplanes import catalog, platforms
from dataplanes.selection import REFERENCE, Selection
from scenarios import stopwatch, topology


@pytest.mark.parametrize(
    ("workload", "leaps", "measured", "error"),
    [
        ("crr", [0.9], 1, ""),
        ("crr", [1.1, 0.2], 2, ""),
        ("program", [11.0], 1, ""),  # what counts is executed
        ("crr", [1.1, 1.2], 2, "direct: the guest's clock went on for 1.2 s while it waited for files"),
    ],
)
def test_a_trial_in_which_the_clock_leapt_is_measured_once_more(
    workload: str, leaps: Sequence[float], measured: int, error: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meter = tmp_path / "waited"
    meter.write_bytes(bytes(8))
    monkeypatch.setattr(stopwatch, "_METER", str(meter))
    done: list[Trial] = []

    @contextmanager
    def built(*asked: object, **how: object) -> Iterator[object]:
        pass_by(meter, 30.0)  # thousands of containers wait for their files
        yield object()

    def fill_in(made: Trial, *asked: object) -> None:
        pass_by(meter, leaps[len(done)])
        made.figures = {"connections_per_second": 1.0 + len(done)}
        done.append(made)

    monkeypatch.setattr(trial, "Journal", nullcontext)
    monkeypatch.setattr(trial, "observed", built)
    monkeypatch.setattr(trial, "_fill_in", fill_in)
    found = trial.run("seed", REFERENCE, TrialPlan("direct", 1, False, 100, workload), "instructions", trial.Testbeds())
    assert len(done) == measured
    assert found.error.startswith(error)
    assert found.figures == ({} if error else done[-1].figures)
    assert bool(found.error) == bool(error)


def test_the_trials_of_a_round_on_a_platform_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swarm is made of three daemons and eight containers: a minute and a half of a processor."""
    lives: list[str] = []

    @contextmanager
    def built(world: object, selection: Selection, *asked: object, **how: object) -> Iterator[object]:
        lives.append(f"+{selection.name}")
        try:
            yield object()
        finally:
            lives.append("-")

    monkeypatch.setattr(trial, "Journal", nullcontext)
    monkeypatch.setattr(trial, "observed", built)
    swarm, outside = catalog.select("swarm@26.1,swarm@26.1+servers=namespace")
    reference = platforms.direct(swarm)

    def measure(selection: Selection, number: int, *, fail: bool = False) -> None:
        plan = TrialPlan(selection.name, number, False, 100)
        with suppress(KeyError), testbeds.observed(topology.load("seed"), selection, plan):
            if fail:
                raise KeyError

    with trial.Testbeds() as testbeds:
        measure(reference, 1)
        measure(swarm, 1)
        assert lives == ["+direct@swarm@26.1"]
        measure(swarm, 2, fail=True)
        measure(reference, 2)
        assert lives[1:] == ["-", "+swarm@26.1", "-", "+direct@swarm@26.1"], "each round has one, while it is well"
        lives.clear()
        measure(REFERENCE, 2)
        measure(REFERENCE, 2)
        assert lives == ["-", "+direct", "-", "+direct", "-"], "a lab is made for each"
        measure(swarm, 3)
        measure(outside, 3)
    assert lives[-4:] == ["+swarm@26.1", "-", f"+{outside.name}", "-"], "its servers run elsewhere"


def pass_by(meter: Path, seconds: float) -> None:
    """Let the clock go on while files are waited for."""
    meter.write_bytes((int.from_bytes(meter.read_bytes(), "little") + int(seconds * 1e9)).to_bytes(8, "little"))
