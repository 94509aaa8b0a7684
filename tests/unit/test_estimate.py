"""Estimates grow with the amount to build and to program, on every kernel, and a run is told how long it takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bench.cli.progress import announcement, progress
from bench.documents import Event, Trial, TrialPlan
from bench.kernels import Kernel
from bench.outside import estimate
from dataplanes import catalog
from scenarios import topology
from scenarios.axes import Axes

HERE = Axes()


def seconds(plane: str = "nft-container", at: Axes = HERE, *, workload: str = "crr", connections: int = 2000) -> float:
    (selection,) = catalog.select(plane)
    trial = TrialPlan(plane, 1, False, connections, workload, at)
    return estimate.seconds(trial, selection, topology.load("scale", at))


@pytest.mark.parametrize("plane", ["direct", "nft-lb", "nft-container", "ipvs-host", "ebpf-tc", "ebpf-socket"])
@pytest.mark.parametrize("axis", ["nodes", "containers", "backends"])
def test_a_larger_world_takes_longer(plane: str, axis: str) -> None:
    """`--dry-run` told the same for one service and for ten thousand, and nothing at all on the host."""
    sizes = [seconds(plane, msgspec.convert({axis: size}, Axes)) for size in (4, 20, 100)]
    assert sizes == sorted(set(sizes))


def test_services_take_longer_where_they_are_programmed() -> None:
    assert seconds("direct", Axes(services=10_000)) == seconds("direct", Axes(services=1))
    assert seconds("ebpf-tc", Axes(services=10_000)) < seconds("nft-container", Axes(services=10_000))
    assert seconds("nft-lb", Axes(services=10_000)) > 3 * seconds("nft-lb", Axes(services=1000))
    assert seconds("nft-lb", Axes(services=1000), workload="program") > seconds("nft-lb", Axes(services=1000))
    assert seconds(connections=20_000) > 2 * seconds(connections=2000)


@pytest.mark.parametrize(
    ("told", "axes"),  # measured with 2,000 connections on a busy host; a factor of two and a half counts as near
    [
        (1.0, {}),
        (2.7, {"services": 1000}),
        (5.0, {"services": 5000}),
        (4.4, {"containers": 30}),
        (10.9, {"containers": 100}),
        (3.1, {"nodes": 20}),
        (8.0, {"backends": 100}),
    ],
)
def test_it_is_near_what_was_measured(told: float, axes: dict[str, int]) -> None:
    assert told / 2.5 < seconds("nft-container", msgspec.convert(axes, Axes)) < told * 2.5


def kernel(clock: str, *, accelerated: bool) -> Kernel:
    return cast(Kernel, SimpleNamespace(clock=clock, accelerated=accelerated))


def test_a_run_that_nobody_made_before_is_estimated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    host, guest = kernel("wall", accelerated=True), kernel("instructions", accelerated=False)
    assert estimate.pace(host) < estimate.pace(guest)
    trial = Trial("nft-lb", "seed", "crr", 1, False, {})
    work = {trial.key(): 30.0}
    assert announcement(work, "host", 1.0) == "host: 1 trials, about 30 s at a guess: nothing was run here before"
    with progress(work, "host", 1.0) as on_event:
        on_event(Event("trial", data=msgspec.to_builtins(trial)))
    assert announcement(work, "host", 1.0).endswith("about 0 s at the last run's pace")
    assert announcement(work, "guest", 10.0, lanes=2, done=3).startswith("guest: 1 trials in 2 guests, 3 done before, ")
    assert announcement({}, "host", 1.0, done=1) == "host: 0 trials, 1 done before"


def test_what_is_left_is_told_by_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    now = [0.0]
    monkeypatch.setattr("bench.cli.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    small, large = (Trial("nft-lb", "seed", "crr", number, False, {}) for number in (1, 2))
    with progress({small.key(): 1.0, large.key(): 9.0}, "host", 1.0) as on_event:
        now[0] = 20.0
        on_event(Event("trial", data=cast(dict[str, Any], msgspec.to_builtins(small))))
    assert "1 of 2 trials, about 3 min left" in capsys.readouterr().err
