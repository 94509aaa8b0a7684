"""The warnings of a run, and the cases without a warning."""

from __future__ import annotations

import pytest

from bench.analysis.judge import warnings
from bench.documents import Trial, Work
from scenarios.axes import Axes

INSTRUCTIONS = {"clock": "instructions"}


def trials(*rates: float) -> list[Trial]:
    found = [Trial("nft-lb", "seed", "crr", 0, True, {"connections_per_second": 1.0})]
    return found + [
        Trial("nft-lb", "seed", "crr", n + 1, False, {"connections_per_second": r}) for n, r in enumerate(rates)
    ]


def test_a_quiet_run_is_not_warned_of() -> None:
    assert warnings(trials(1000, 1001, 999, 1000.5, 999.5), INSTRUCTIONS) == []


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ((1000, 1050, 990), "unstable: its rounds are up to 6.1% apart"),
        ((1000, 1001, 999, 1000, 985), "round 5 is an outlier: -1.5% from the median"),
        ((1000, 1002, 1004, 1006, 1008), "drifts: +0.8% from the first round to the last"),
    ],
)
def test_what_is_wrong_is_told(rates: tuple[float, ...], says: str) -> None:
    told = warnings(trials(*rates), INSTRUCTIONS)
    assert any(says in each for each in told), told
    assert all(each.startswith("nft-lb, crr: ") for each in told)


def test_a_generator_at_its_limit_is_told() -> None:
    assert "generator-bound" in warnings(trials(950, 950, 950), INSTRUCTIONS | {"generator_ceiling": 1000.0})[0]
    assert warnings(trials(850, 850, 850), INSTRUCTIONS | {"generator_ceiling": 1000.0}) == []


def test_a_ceiling_that_is_exceeded_is_none() -> None:
    """Direct at 950 was called generator-bound beside a plane at 1,100, with a ceiling of 1,000."""
    faster = [Trial("ebpf-tc", "seed", "crr-rst", n, False, {"connections_per_second": 1100.0}) for n in range(1, 4)]
    (told,) = warnings(trials(950, 950, 950) + faster, INSTRUCTIONS | {"generator_ceiling": 1000.0})
    assert told.startswith("ebpf-tc, crr-rst: 1,100 connections/s are more than the 1,000")
    assert "nothing is called generator-bound" in told


@pytest.mark.parametrize(
    ("connections", "sources", "told"), [(12_000, 0, False), (14_000, 0, True), (14_000, 1, False)]
)
def test_ports_that_run_out_are_told(connections: int, sources: int, told: bool) -> None:
    trial = Trial("nft-lb", "seed", "crr", 1, False, {}, axes=Axes(sources=sources), work=Work(operations=connections))
    assert any("half the client's ports" in each for each in warnings([trial], INSTRUCTIONS)) is told
