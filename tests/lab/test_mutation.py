"""The checks can fail: each plane is broken in eight ways, and for each the right cell turns red."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from msgspec.structs import replace

from bench import trial
from dataplanes import catalog
from dataplanes.base import Counter, DataPlane, Footprint
from dataplanes.model import Backend, Endpoint, Segment, Service
from dataplanes.requirements import Requirement
from scenarios import checks, topology
from scenarios.checks import world
from scenarios.journal import Journal
from scenarios.lab import Lab
from tests.lab.test_seed import SERVING

Change = Callable[["Mutant", Sequence[Service]], Sequence[Service]]


class Mutant(DataPlane):
    """A plane that is told something else than what the lab says."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self.name = plane.name
        self.before: dict[str, Service] = {}
        self.change: Change = lambda mutant, services: services
        self.forgets_removal = False
        self.absent = ""  # a node where nothing is programmed

    def requires(self) -> tuple[Requirement, ...]:
        return self.plane.requires()

    def add_segment(self, segment: Segment) -> None:
        if segment.node != self.absent:
            self.plane.add_segment(segment)

    def add_endpoint(self, endpoint: Endpoint) -> None:
        if endpoint.node != self.absent:
            self.plane.add_endpoint(endpoint)

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        self.plane.remove_endpoint(endpoint)

    def apply(self, services: Sequence[Service]) -> None:
        self.plane.apply(self.change(self, services))
        self.before.update((service.name, service) for service in services)

    def remove(self, services: Sequence[Service]) -> None:
        if not self.forgets_removal:
            self.plane.remove(services)

    def counters(self) -> list[Counter]:
        return self.plane.counters()

    def footprint(self) -> list[Footprint]:
        return self.plane.footprint()

    def close(self) -> None:
        self.plane.close()

    def release(self) -> None:
        self.plane.release()


def _backends(change: Callable[[tuple[Backend, ...]], tuple[Backend, ...]]) -> Change:
    return lambda mutant, services: [replace(each, backends=change(each.backends)) for each in services]


def _swap_vips(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    vips = {each.name: each.vip for each in services}
    if {"lone", "visitor"} <= vips.keys():
        vips["lone"], vips["visitor"] = vips["visitor"], vips["lone"]
    return [replace(each, vip=vips[each.name]) for each in services]


def _only_additions(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    def merged(each: Service) -> Service:
        old = mutant.before.get(each.name, each).backends
        new = {backend.address for backend in each.backends}
        return replace(each, backends=(*each.backends, *(b for b in old if b.address not in new)))

    return [merged(each) for each in services]


def _no_updates(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    return [mutant.before.get(each.name, each) for each in services]


MUTATIONS: dict[str, tuple[str, Callable[[Mutant], None]]] = {
    "a backend is forgotten": (
        "balance.round-robin",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: all_[:-1] or all_)),
    ),
    "a stranger is among the backends": (
        "balance.round-robin",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: (*all_, Backend("10.0.0.9")))),
    ),
    "two services' VIPs are swapped": ("reach.other-service", lambda mutant: setattr(mutant, "change", _swap_vips)),
    "a removed backend stays": ("change.new-avoid-removed", lambda mutant: setattr(mutant, "change", _only_additions)),
    "a new backend is not told": ("change.scale-up", lambda mutant: setattr(mutant, "change", _no_updates)),
    "draining is ignored": (
        "change.drain",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: tuple(Backend(b.address) for b in all_))),
    ),
    "a removed service stays": ("change.leaves-nothing", lambda mutant: setattr(mutant, "forgets_removal", True)),
    "one node is not programmed": ("reach.node-without-backend", lambda mutant: setattr(mutant, "absent", "manager1")),
}
"""What is broken -> the cell that must turn red, and how it is broken."""


class Bench:
    """A lab whose plane can be broken anew."""

    def __init__(self) -> None:
        self.breaks: Callable[[Mutant], None] = lambda mutant: None
        self.mutant: Mutant
        self.lab: Lab

    def make(self, selection: catalog.Selection, lab: Lab) -> DataPlane:
        self.mutant = Mutant(catalog.make(selection, lab))
        self.breaks(self.mutant)
        return self.mutant


@pytest.fixture(scope="module", params=[*SERVING, "ipvs-lb-dsr"])
def broken(request: pytest.FixtureRequest) -> Iterator[Bench]:
    (selection,) = catalog.select(request.param)
    made = Bench()
    with (
        Journal() as journal,
        trial.build(topology.load("matrix"), selection, journal, make=partial(made.make, selection)) as made.lab,
    ):
        yield made


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_right_cell_turns_red(broken: Bench, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TIMEOUT", 3.0)
    name, broken.breaks = MUTATIONS[mutation]
    broken.lab.reinstall()
    cell = checks.observe(checks.CHECKS[name], world.World(broken.lab), broken.mutant.name)
    assert cell.outcome == "fail", f"{mutation}, and {name}: {cell.outcome}: {cell.detail}"
