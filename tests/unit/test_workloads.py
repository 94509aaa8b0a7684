"""What is said of a workload is what is measured."""

from __future__ import annotations

import pytest

from bench.measure import MEASURES
from bench.workloads import METRICS, WORKLOADS, parse
from dataplanes.errors import Usage


def test_every_workload_is_measured_and_its_columns_are_known() -> None:
    assert list(MEASURES) == list(WORKLOADS)
    for each in WORKLOADS.values():
        assert {each.primary, *each.columns} <= METRICS.keys()


def test_names_are_parsed_and_a_sweeps_are_the_default() -> None:
    assert parse(None) == ["crr"]
    assert parse(None, ["rr", "crr", "rr"]) == ["rr", "crr"]
    assert parse("udp, first", ["rr"]) == ["udp", "first"]
    assert set(WORKLOADS) - set(parse("all")) == {"wrk"}  # it takes programs that ./run does not install
    with pytest.raises(Usage, match="unknown workload 'fast'"):
        parse("crr,fast")


def test_a_column_tells_its_unit_once() -> None:
    assert METRICS["connect_p50_us"].column() == "connect p50, µs"
    assert METRICS["cpu_us_per_connection"].column() == "CPU µs/conn"
    assert METRICS["connections_per_second"].column() == "connections/s"
    assert METRICS["megabits_per_second"].column() == "Mbit/s"
