"""The time to program the planes: the part that is only computed, and the part of a kernel.

`pytest-benchmark compare` reads the results.

./run tox -e benchmark -- --benchmark-save=before ./run tox -e benchmark -- --benchmark-compare
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from bench.outside.rounds import interleave
from dataplanes.base import Site
from dataplanes.kernel import netlink, netns
from dataplanes.kernel.ipvs import MASQUERADE, destination_body, service_body
from dataplanes.model import Backend, Service
from dataplanes.nft import Nft, NftKnobs
from dataplanes.nft_rules import Ruleset
from dataplanes.selection import Selection
from scenarios import topology
from scenarios.axes import Axes
from scenarios.journal import Journal

pytestmark = pytest.mark.benchmark
BACKENDS = ("10.0.0.3", "10.0.0.4", "10.0.0.5")


def vip(number: int) -> str:
    return f"10.{1 + number // 65536}.{number // 256 % 256}.{number % 256}"


def services(count: int) -> list[Service]:
    return [Service(f"s{n}", "net", vip(n), tuple(Backend(a, 1) for a in BACKENDS)) for n in range(count)]


def site(name: str) -> Site:
    return Site(name, "net", "worker1", "10.0.0.0/8", "output", "own-source", "lo", "127.0.0.1")


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_render_a_ruleset(benchmark: Any, count: int) -> None:
    wanted = {each.vip: BACKENDS for each in services(count)}
    change = benchmark(lambda: Ruleset(site("ns"), "rr").change(wanted))
    assert change.text.count("10.0.0.3") >= count


def test_render_one_service_more_beside_ten_thousand(benchmark: Any) -> None:
    rules = Ruleset(site("ns"), "rr")
    rules.commit(rules.change({each.vip: BACKENDS for each in services(10_000)}))
    change = benchmark(lambda: rules.change({"10.200.0.1": BACKENDS}))
    assert "10.200.0.1" in change.text


def test_encode_a_thousand_ipvs_services(benchmark: Any) -> None:
    def encode() -> int:
        bodies = [service_body(mark, "rr") for mark in range(1000)]
        bodies += [destination_body(mark, a, MASQUERADE, 1) for mark in range(1000) for a in BACKENDS]
        return sum(map(len, bodies))

    assert benchmark(encode) > 0


def test_pack_netlink_attributes(benchmark: Any) -> None:
    packed = benchmark(lambda: b"".join(netlink.attribute(n % 64, b"\0\0\0\1") for n in range(1000)))
    assert len(packed) == 8000


def test_load_a_scenario_with_a_hundred_containers_a_node(benchmark: Any) -> None:
    scenario = benchmark(lambda: topology.load("scale", Axes(containers=100, nodes=10)))
    assert len(scenario.idlers) == 1000


def test_plan_a_sweep(benchmark: Any) -> None:
    planes = [Selection(f"plane{n}", f"plane{n}") for n in range(12)]
    assert len(benchmark(lambda: interleave(planes, 50, connections=1000))) == 12 * 51


@pytest.fixture
def namespace() -> Iterator[str]:
    """Yield an empty network namespace of this kernel. It needs root."""
    with Journal() as journal:
        name = f"{journal.run}-benchmark"
        journal.record("netns", name)
        netns.create(name)
        yield name


@pytest.mark.parametrize("count", [100, 1000])
def test_install_in_a_kernel(benchmark: Any, namespace: str, count: int) -> None:
    """All services are added in one transaction, and removed again."""
    assert os.geteuid() == 0, "programming a kernel takes root"
    assert shutil.which("nft")
    director = Nft(NftKnobs()).open(site(namespace))
    wanted = services(count)

    def install_and_remove() -> None:
        director.apply(wanted)
        director.remove(wanted)

    try:
        benchmark.pedantic(install_and_remove, rounds=5, warmup_rounds=1)
    finally:
        director.close()


def test_one_service_more_in_a_kernel(benchmark: Any, namespace: str) -> None:
    """One service is added beside a thousand."""
    director = Nft(NftKnobs()).open(site(namespace))
    more = Service("more", "net", "10.200.0.1", tuple(Backend(a, 1) for a in BACKENDS))
    try:
        director.apply(services(1000))

        def add_and_remove() -> None:
            director.apply([more])
            director.remove([more])

        benchmark.pedantic(add_and_remove, rounds=20, warmup_rounds=1)
    finally:
        director.close()
