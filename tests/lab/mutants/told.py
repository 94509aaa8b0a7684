"""Planes that are told something else than the lab's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from dataplanes.base import Counter, DataPlane, Footprint
from dataplanes.model import Backend, Endpoint, Segment, Service

Change = Callable[["Mutant", Sequence[Service]], Sequence[Service]]


class Mutant(DataPlane):
    """A plane that is told something else than the lab's state."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self.name = plane.name
        self.before: dict[str, Service] = {}
        self.change: Change = lambda mutant, services: services
        self.forgets_removal = False
        self.absent = ""  # a node on which nothing is programmed

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

    def resync(self) -> None:
        self.plane.resync()

    def deafen(self, node: str) -> None:
        self.plane.deafen(node)

    def hear(self, node: str) -> None:
        self.plane.hear(node)

    def catch_up(self, node: str) -> None:
        self.plane.catch_up(node)

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


def _with_a_stranger(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    stranger = Backend("10.0.0.9")
    return backends if stranger in backends else (*backends, stranger)


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


def _the_last_stays(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    return [each if each.backends else mutant.before.get(each.name, each) for each in services]


def _no_updates(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    return [mutant.before.get(each.name, each) for each in services]


TOLD: dict[str, tuple[str, Callable[[Mutant], None]]] = {
    "a backend is forgotten": (
        "balance.round-robin",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: all_[:-1] or all_)),
    ),
    "a stranger is among the backends": (
        "balance.round-robin",
        lambda mutant: setattr(mutant, "change", _backends(_with_a_stranger)),
    ),
    "two services' VIPs are swapped": ("reach.other-service", lambda mutant: setattr(mutant, "change", _swap_vips)),
    "a removed backend stays": ("change.new-avoid-removed", lambda mutant: setattr(mutant, "change", _only_additions)),
    "a new backend is not told": ("change.scale-up", lambda mutant: setattr(mutant, "change", _no_updates)),
    "the last backend stays": ("change.last-backend", lambda mutant: setattr(mutant, "change", _the_last_stays)),
    "draining is ignored": (
        "change.drain",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: tuple(Backend(b.address) for b in all_))),
    ),
    "a removed service stays": ("change.leaves-nothing", lambda mutant: setattr(mutant, "forgets_removal", True)),
    "one node is not programmed": ("reach.node-without-backend", lambda mutant: setattr(mutant, "absent", "manager1")),
}
"""What is broken -> the check that must fail, and the way in which it is broken."""

WITHOUT_TURNS = "balance.round-robin", "reach.node-without-backend"
"""A check that fails on every plane that chooses at random, and the one that takes its place there."""
