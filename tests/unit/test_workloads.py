"""The declared facts of a workload are those that are measured."""

from __future__ import annotations

import pytest

from bench.documents.metrics import METRICS
from bench.documents.workloads import WORKLOADS, demand_ports, demand_processors, parse
from bench.inside.measure import PROGRAMMING, TRAFFIC
from dataplanes.errors import Prerequisite, Usage
from scenarios.axes import Axes


def test_every_workload_is_measured_and_its_columns_are_known() -> None:
    assert {*TRAFFIC, *PROGRAMMING} == {*WORKLOADS}
    for each in WORKLOADS.values():
        assert {each.primary, *each.columns} <= METRICS.keys()


def test_names_are_parsed_and_a_sweeps_are_the_default() -> None:
    assert parse(None) == ["crr"]
    assert parse(None, ["rr", "crr", "rr"]) == ["rr", "crr"]
    assert parse("udp, first", ["rr"]) == ["udp", "first"]
    # Not every kernel can run these: one needs programs that ./run does not install, and one needs two processors.
    assert set(WORKLOADS) - set(parse("all")) == {"wrk", "gap"}
    with pytest.raises(Usage, match="unknown workload 'fast'"):
        parse("crr,fast")


@pytest.mark.parametrize(
    ("name", "at", "targets", "says"),
    [
        ("crr", Axes(ports=64), 1, "--connections 58 or --ports 2200 or --sources 34 or --workload crr-rst"),
        ("open", Axes(ports=64), 1, "--connections 46 or --ports 2750 or --sources 42"),
        ("churn", Axes(ports=64), 1, "--connections 64 or --ports 2000"),
        ("churn", Axes(ports=64, sources=200), 1, "--connections 64 or --ports 2000"),  # from one address all the same
        ("others", Axes(ports=64), 3, "--connections 174 or --ports 734 or --sources 11"),
        ("crr-rst", Axes(ports=8), 1, "--ports 16 or --concurrency 8"),
        ("crr", Axes(ports=2199), 1, "2,200 are needed"),
    ],
)
def test_ports_that_cannot_do_are_refused_with_what_would(name: str, at: Axes, targets: int, says: str) -> None:
    with pytest.raises(Usage) as refused:
        demand_ports(name, 2000, at, targets)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("name", "at", "targets"),
    [
        ("crr", Axes(), 1),
        ("crr", Axes(ports=2200), 1),
        ("crr", Axes(ports=64, sources=34), 1),
        ("crr", Axes(ports=734), 3),
        ("open", Axes(ports=2750), 1),
        ("others", Axes(ports=734), 3),
        ("crr-rst", Axes(ports=64), 1),
        ("rr", Axes(ports=64), 1),
        ("udp", Axes(ports=64), 1),
        ("first", Axes(ports=64), 1),
        ("stream", Axes(ports=64), 1),
        ("program", Axes(ports=64, services=10), 1),
    ],
)
def test_ports_that_do_are_not(name: str, at: Axes, targets: int) -> None:
    demand_ports(name, 2000, at, targets)


def test_the_usual_ports_run_out_too() -> None:
    with pytest.raises(Usage, match="28,232 client ports are too few for 30,000"):
        demand_ports("crr", 30_000, Axes(), 1)
    with pytest.raises(Usage) as refused:
        demand_ports("crr", 1_000_000, Axes(), 1)
    assert "--ports" not in str(refused.value)


def test_what_needs_two_processors_is_refused_where_they_take_turns() -> None:
    demand_processors(["gap", "crr"], "host", accelerated=True)
    demand_processors(["crr"], "debian-6.12", accelerated=False)
    with pytest.raises(Prerequisite, match=r"debian-6\.12: gap needs two processors"):
        demand_processors(["crr", "gap"], "debian-6.12", accelerated=False)
