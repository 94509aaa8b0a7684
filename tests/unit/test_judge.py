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
    assert told == (
        "ebpf-tc, crr-rst: 1,100 connections/s are more than the 1,000 that the generator was seen to reach over"
        " loopback: that is not its ceiling, and nothing is called generator-bound"
    )


@pytest.mark.parametrize(
    ("connections", "sources", "told"), [(12_000, 0, False), (14_000, 0, True), (14_000, 1, False)]
)
def test_ports_that_run_out_are_told(connections: int, sources: int, told: bool) -> None:
    trial = Trial("nft-lb", "seed", "crr", 1, False, {}, axes=Axes(sources=sources), work=Work(operations=connections))
    assert any("half the client's ports" in each for each in warnings([trial], INSTRUCTIONS)) is told


def crr(
    operations: int, plane: str = "nft-lb", workload: str = "crr", *, warmup: bool = False, sources: int = 0
) -> Trial:
    work = Work(operations=operations)
    return Trial(plane, "seed", workload, 1, warmup, {}, axes=Axes(sources=sources), work=work)


def test_ports_are_told_of_with_what_to_do() -> None:
    (told,) = warnings([crr(14_000)], INSTRUCTIONS)
    assert told == (
        "14,000 connections from one address to one VIP use up half the client's ports, and it searches for each: see"
        " --connections and --sources"
    )


@pytest.mark.parametrize(
    ("bounds", "operations", "warned"),
    [
        ("32768 60999", 12_832, False),  # half of 28,232 ports, less a tenth that the program's own warm-up takes
        ("32768 60999", 12_833, True),
        ("20000 29999", 4545, False),
        ("20000 29999", 4546, True),
        ("1 9", 3, False),
        ("1 9", 4, True),
        ("1 44", 20, False),
        ("", 12_832, False),
        ("", 12_833, True),  # it could not be read: the kernel's default
        ("1024", 12_833, True),
        ("100000 900000", 12_833, True),
        ("a b", 12_833, True),
    ],
)
def test_ports_are_those_of_the_client(bounds: str, operations: int, warned: bool) -> None:
    environment = INSTRUCTIONS | {"sysctl": {"net.ipv4.ip_local_port_range": bounds}}
    assert bool(warnings([crr(operations)], environment)) is warned


def test_ports_are_counted_where_connections_are_closed_by_fin_to_a_vip() -> None:
    assert warnings([crr(50_000, "direct")], INSTRUCTIONS) == []
    assert warnings([crr(50_000, workload="crr-rst")], INSTRUCTIONS) == []
    assert warnings([crr(50_000, warmup=True)], INSTRUCTIONS) == []
    assert warnings([crr(26_000, sources=1)], INSTRUCTIONS) != []
    assert warnings([crr(14_000, "direct"), crr(10)], INSTRUCTIONS) != []
    assert warnings([Trial("nft-lb", "seed", "crr", 1, False, {})], INSTRUCTIONS) == []


def test_noise_is_by_the_clock() -> None:
    apart = trials(1000, 1050, 990)
    assert warnings(apart, {"clock": "wall"}) == []
    assert warnings(apart, {}) == []
    assert len(warnings(apart, INSTRUCTIONS)) == 1
    assert len(warnings(trials(1000, 1130, 1000), {"clock": "wall"})) == 1
    assert len(warnings(trials(1000, 1130, 1000), {})) == 1


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ((1000, 1019, 1000), []),
        ((1000, 1021, 1000), ["unstable: its rounds are up to 2.1% apart"]),
        ((1000, 1100), []),  # two rounds say nothing
        ((1000, 1001, 1002, 1015), []),  # four say nothing about an outlier or a drift
        ((1000, 1000, 1000, 1000, 1004), []),  # within noise
        ((1000, 1000, 1000, 1000, 1006), ["round 5 is an outlier: +0.6% from the median; kept"]),
        (
            (1000, 1000, 1006, 1000, 1000, 1000, 990),
            ["2 of 7 rounds are outliers: -1.0% to +0.6% from the median; kept"],
        ),
        ((1000, 1002, 1004, 1006, 1004.9), []),  # it came back
        ((1008, 1006, 1004, 1002, 1000), ["drifts: -0.8% from the first round to the last, never back"]),
        ((1000, 1001, 1002, 1003, 1004), []),
        ((1000, 1000, 1004, 1008, 1008), []),
        ((1008, 1006, 1006, 1002, 1000), []),
        ((1000, 1001, 1002, 1003, 1006), ["drifts: +0.6% from the first round to the last, never back"]),
        ((1000, 1003, 1004, 1005, 1006), ["drifts: +0.6% from the first round to the last, never back"]),
        ((1000, 1010, 990, 1010, 990, 1046), ["unstable: its rounds are up to 5.7% apart"]),  # 4 times the usual
        (
            (1000, 1010, 990, 1010, 990, 1066),  # 6 times the usual
            ["unstable: its rounds are up to 7.7% apart", "round 6 is an outlier: +6.1% from the median; kept"],
        ),
        ((1000, 1004, 1008, 1012, 1016), ["drifts: +1.6% from the first round to the last, never back"]),
        ((1000, 1007, 993, 1006, 994), []),  # far, and no farther than the others
    ],
)
def test_rounds_are_judged_by_each_other(rates: tuple[float, ...], told: list[str]) -> None:
    assert warnings(trials(*rates), INSTRUCTIONS) == [f"nft-lb, crr: {each}" for each in told]


def test_a_series_is_of_a_point_and_its_name_is_told() -> None:
    at = [
        Trial("nft-lb", "seed", "crr", n, False, {"connections_per_second": rate}, axes=Axes(services=100))
        for n, rate in enumerate((1000.0, 1100.0, 1000.0))
    ]
    assert warnings([*trials(2000, 2000, 2100), *at], INSTRUCTIONS) == [
        "nft-lb, crr: unstable: its rounds are up to 5.0% apart",
        "nft-lb, crr, 100 more services: unstable: its rounds are up to 10.0% apart",
    ]


def test_a_failed_round_is_no_figure_and_a_failed_warm_up_is_told() -> None:
    failed = Trial("nft-lb", "seed", "crr", 4, False, {"connections_per_second": 5000.0}, "no answer")
    assert warnings([*trials(1000, 1000, 1000), failed], INSTRUCTIONS) == []
    cold = Trial("nft-lb", "seed", "crr", 0, True, {}, "no answer")
    assert warnings([cold], INSTRUCTIONS) == ["nft-lb, crr: its warm-up failed: no answer"]


def test_the_limit_is_that_of_our_own_generator() -> None:
    ceiling = INSTRUCTIONS | {"generator_ceiling": 1000.0}
    others = [Trial("nft-lb", "seed", "wrk", n, False, {"connections_per_second": 990.0}) for n in range(3)]
    requests = [Trial("nft-lb", "seed", "rr", n, False, {"transactions_per_second": 990.0}) for n in range(3)]
    assert warnings([*others, *requests], ceiling) == []
    assert warnings(trials(899, 899, 899), ceiling) == []
    (told,) = warnings(trials(900, 900, 900), ceiling)
    assert told == "nft-lb, crr: generator-bound: over loopback the generator itself reaches 1,000 connections/s"
    assert warnings(trials(1000, 1000, 1000), ceiling) == [told]
    assert warnings(trials(950, 950, 950), INSTRUCTIONS | {"generator_ceiling": None}) == []
