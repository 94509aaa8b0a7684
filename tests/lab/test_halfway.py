"""Whatever is refused at whatever step, everything is as it was, and the same call succeeds when nothing is refused.

A plane's whole life in a lab is run call by call. Each call is made with its first operation refused, then with its
second, and so on until it has no more. Only then is it made without a refusal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.inside import trial
from dataplanes import catalog
from dataplanes.base import DataPlane
from dataplanes.errors import BenchError
from dataplanes.model import Backend, Service
from scenarios import topology
from scenarios.journal import Journal
from scenarios.lab import Lab
from tests.lab.facts import Facts
from tests.lab.refusals import Refusals
from tests.lab.test_seed import AT_RANDOM, PROGRAMMED, SERVING

SCENARIO = """
nodes = ["n1", "n2"]
networks = [{ name = "net", subnet = "10.0.0.0/24" }]
workload = { client = "client.1", service = "web" }
[[services]]
name = "web"
network = "net"
vip = "10.0.0.2"
tasks = [{ name = "web.1", node = "n1", address = "10.0.0.3" }, { name = "web.2", node = "n2", address = "10.0.0.4" }]
[[services]]
name = "client"
network = "net"
vip = "10.0.0.6"
tasks = [{ name = "client.1", node = "n2", address = "10.0.0.7" }]
"""

Call = tuple[str, Callable[[], None], Callable[[], None]]
"""A step: its name, the call, and the call that undoes it."""


def life(plane: DataPlane, lab: Lab) -> Iterator[Call]:
    """Yield a plane's life: each kind of call once, where it has most to do."""
    one, two = lab.fabric.segments.values()
    first, second, last = (endpoint for container in lab.containers.values() for endpoint in container.endpoints)
    web, client = lab.service("web"), lab.service("client")
    changed = [
        replace(web, backends=(Backend("10.0.0.3", 0), Backend("10.0.0.9"))),  # one drained, one removed, one added
        replace(client, vip="10.0.0.52"),  # with another VIP
        *(Service(name, "net", vip, web.backends, web.ports) for name, vip in (("a", "10.0.0.50"), ("b", "10.0.0.51"))),
    ]

    def back() -> None:
        plane.remove(changed[2:])
        plane.apply([web, client])

    def install() -> None:
        for segment in (one, two):
            plane.add_segment(segment)
        for endpoint in (first, second):
            plane.add_endpoint(endpoint)
        plane.apply([changed[0], changed[1]])

    plane.add_segment(one)
    plane.add_endpoint(first)
    plane.apply([web, client])
    yield "add_segment", partial(plane.add_segment, two), partial(_remove_segment, plane, two)
    yield "add_endpoint", partial(plane.add_endpoint, second), partial(plane.remove_endpoint, second)
    plane.add_endpoint(last)
    yield "apply", partial(plane.apply, changed), back
    yield "remove", partial(plane.remove, changed[2:]), partial(plane.apply, changed[2:])
    yield "remove_endpoint", partial(plane.remove_endpoint, last), partial(plane.add_endpoint, last)
    yield "close", plane.close, install


def _remove_segment(plane: DataPlane, segment: object) -> None:
    plane._remove_segment(segment)  # type: ignore[attr-defined]


def _planes() -> list[object]:
    """Return every plane. Those that take a guest longest, in ways that others have too, are left to the night."""
    long = ["kube-ipvs", "ipvs-lb-dsr", *PROGRAMMED]
    usual = [name for name in (*SERVING, *AT_RANDOM) if name not in long]
    return [*usual, *(pytest.param(name, marks=pytest.mark.night) for name in long)]


@pytest.mark.parametrize("dataplane", _planes())
def test_a_refusal_at_any_step_leaves_everything_as_it_was(dataplane: str, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO)
    (selection,) = catalog.select(dataplane)
    refused = Counter[str]()
    with Journal() as journal, trial.build(topology.load(f"{tmp_path}/two.toml"), selection, journal) as lab:
        assert lab.plane
        lab.plane.close()
        lab.plane = plane = catalog.make(selection, lab, journal)
        with closing(Facts(lab)) as facts:
            bare = facts.now()
            for name, call, back in life(plane, lab):
                refused[name] = refused_at_each_step(name, call, back, facts)
                if name == "apply":
                    before = facts.now()
                    plane.resync()
                    assert facts.now() == before, "nothing was wrong"
            assert facts.now() == bare
    assert all(refused[name] for name in ("apply", "remove", "close"))


def refused_at_each_step(name: str, call: Callable[[], None], back: Callable[[], None], facts: Facts) -> int:
    """Make the call with each of its operations refused, then without a refusal. Return how many operations it has."""
    refusals, before, number = Refusals(), facts.now(), 0
    while True:
        told = ""
        with refusals.of(number):
            try:
                call()
            except BenchError as error:
                told = str(error)
        if not refusals.refused:
            assert not told
            return number
        if not told:  # the refusal made no difference
            back()
        assert facts.now() == before, f"{name}, operation {number}: {told}"
        number += 1
