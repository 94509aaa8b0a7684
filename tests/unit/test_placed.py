"""A plane brings every site to the wanted state, or back to the old one.

The test has its own mechanism and placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from dataplanes.base import Attachments, Counter, Director, Footprint, Mechanism, Placement, Site
from dataplanes.errors import KernelRefused, Usage
from dataplanes.model import Backend, Endpoint, Port, Segment, Service
from dataplanes.placed import PlacedPlane
from dataplanes.requirements import Feature, Requirement

SEGMENT = Segment("n1", "net", "10.0.0.0/24", "n1", "n1.net")
OTHER = Segment("n2", "net", "10.0.0.0/24", "n2", "n2.net")
WEB = Service("web", "net", "10.0.0.2", (Backend("10.0.0.3"), Backend("10.0.0.4")))


class Notebook(Mechanism):
    """A fourth mechanism, which records what it would program."""

    name = "notebook"

    def __init__(self) -> None:
        self.sites: dict[str, dict[str, Service]] = {}
        self.log: list[str] = []
        self.refuse = ""
        self.damaged: set[str] = set()  # sites that somebody else has touched

    @classmethod
    def requires(cls, *arguments: Any, **options: Any) -> tuple[Requirement, ...]:
        return (Feature("PAPER", "paper", "something to write on"),)

    def open(self, site: Site) -> Director:
        self.sites[site.netns] = {}
        return Page(self, site)


class Page(Director):
    """A director that writes the services of its site into the notebook."""

    def __init__(self, book: Notebook, site: Site) -> None:
        self._book, self._site = book, site

    def apply(self, services: Sequence[Service]) -> None:
        if services and self._site.netns == self._book.refuse:
            raise KernelRefused("no more paper", where=self._site.netns)
        page = self._book.sites[self._site.netns]
        for service in services:
            page[service.name] = service
            self._book.log.append(f"{self._site.netns} apply {service.name} {len(service.backends)}")

    def remove(self, services: Sequence[Service]) -> None:
        for service in services:
            self._book.sites[self._site.netns].pop(service.name, None)
            self._book.log.append(f"{self._site.netns} remove {service.name}")

    def resync(self) -> None:
        self._book.damaged.discard(self._site.netns)
        self._book.log.append(f"{self._site.netns} resync")

    def intact(self) -> bool:
        return self._site.netns not in self._book.damaged

    def counters(self) -> list[Counter]:
        return [Counter(self._site.netns, name, "10.0.0.3", 1) for name in self._book.sites[self._site.netns]]

    def footprint(self) -> list[Footprint]:
        return [Footprint(self._site.netns, "lines", len(self._book.sites[self._site.netns]))]

    def close(self) -> None:
        self._book.sites.pop(self._site.netns, None)


class Shelf(Placement):
    """A placement with one site per segment, which announces its VIPs."""

    name = "shelf"

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def open_segment(self, segment: Segment, attachments: Attachments) -> list[Site]:
        return [Site(segment.overlay_netns, "net", segment.node, segment.subnet, "input", "snat", "br0", "10.0.0.1")]

    def publish(self, site: Site, services: Sequence[Service]) -> None:
        self._log += [f"{site.netns} publish {service.name}" for service in services]

    def withdraw(self, site: Site, services: Sequence[Service]) -> None:
        self._log += [f"{site.netns} withdraw {service.name}" for service in services]


class NoAttachments:
    """Attachments for a placement that asks for none."""

    def attach(self, network: str, node: str, role: str) -> Endpoint:
        raise AssertionError("not asked for")

    def detach(self, endpoint: Endpoint) -> None:
        raise AssertionError("not asked for")


@pytest.fixture
def book() -> Notebook:
    return Notebook()


@pytest.fixture
def plane(book: Notebook) -> PlacedPlane:
    plane = PlacedPlane("notebook-shelf", Shelf(book.log), book, NoAttachments())
    plane.add_segment(SEGMENT)
    plane.add_segment(OTHER)
    return plane


def test_a_service_without_ports_is_refused_at_once_where_ports_must_be_declared(
    book: Notebook, plane: PlacedPlane
) -> None:
    book.any_port = False
    with pytest.raises(Usage, match="declares no port"):
        plane.apply([WEB])
    assert book.log == []
    plane.apply([replace(WEB, ports=(Port("tcp", 80),))])
    assert book.log[0] == "n1.net apply web 2"


def test_a_vip_is_announced_after_it_is_programmed_and_hidden_before_it_is_not(
    book: Notebook, plane: PlacedPlane
) -> None:
    plane.apply([WEB])
    assert book.log[:2] == ["n1.net apply web 2", "n1.net publish web"]
    book.log.clear()
    plane.remove([WEB])
    assert book.log[:2] == ["n1.net withdraw web", "n1.net remove web"]
    assert book.sites == {"n1.net": {}, "n2.net": {}}


def test_an_update_is_not_announced_again_and_no_change_is_no_work(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    book.log.clear()
    plane.apply([WEB])
    assert book.log == []
    plane.apply([Service("web", "net", "10.0.0.2", (Backend("10.0.0.3"),))])
    assert book.log == ["n1.net apply web 1", "n2.net apply web 1"]


def test_a_site_that_comes_later_gets_every_service(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    plane.add_segment(Segment("n3", "net", "10.0.0.0/24", "n3", "n3.net"))
    assert book.sites["n3.net"] == {"web": WEB}
    assert {(each.netns, each.objects) for each in plane.footprint()} == {("n1.net", 1), ("n2.net", 1), ("n3.net", 1)}


def test_a_failure_at_the_second_site_leaves_both_in_the_old_state(book: Notebook, plane: PlacedPlane) -> None:
    book.refuse = "n2.net"
    with pytest.raises(KernelRefused, match="no more paper"):
        plane.apply([WEB])
    assert book.sites == {"n1.net": {}, "n2.net": {}}


def test_a_failed_update_leaves_the_old_backends(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    book.refuse = "n2.net"
    with pytest.raises(KernelRefused):
        plane.apply([Service("web", "net", "10.0.0.2", ())])
    assert book.sites == {"n1.net": {"web": WEB}, "n2.net": {"web": WEB}}


def test_a_change_begins_with_restoring_what_others_have_touched(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    book.log.clear()
    book.damaged = {"n2.net"}
    plane.apply([Service("web", "net", "10.0.0.2", (Backend("10.0.0.3"),))])
    assert book.log == ["n1.net apply web 1", "n2.net resync", "n2.net publish web", "n2.net apply web 1"]
    book.log.clear()
    book.damaged = {"n1.net"}
    plane.remove([WEB])
    assert book.log[:3] == ["n1.net resync", "n1.net publish web", "n1.net withdraw web"]


def test_resync_restores_every_site(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    book.log.clear()
    plane.resync()
    assert book.log == ["n1.net resync", "n1.net publish web", "n2.net resync", "n2.net publish web"]


def test_close_removes_everything_and_may_be_called_again(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    plane.close()
    plane.close()
    assert book.sites == {}


# -- nodes that learn late, or never -----------------------------------------------------------------------------------

LESS = replace(WEB, backends=WEB.backends[:1])


def test_a_node_goes_on_with_what_it_knows_and_then_catches_up(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    plane.deafen("n2")
    plane.apply([LESS, replace(WEB, name="new", vip="10.0.0.9")])
    assert book.sites["n1.net"]["web"] == LESS
    assert book.sites["n2.net"] == {"web": WEB}
    plane.catch_up("n2")
    assert book.sites["n2.net"] == book.sites["n1.net"]
    book.log.clear()
    plane.apply([WEB])
    assert book.log == ["n1.net apply web 2", "n2.net apply web 2"], "it is a node like the others again"


def test_a_vip_that_is_another_service_s_is_taken_from_the_first_one_first(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    plane.deafen("n2")
    plane.remove([WEB])
    plane.apply([replace(LESS, name="heir")])
    book.log.clear()
    plane.catch_up("n2")
    assert book.log == [f"n2.net {step}" for step in ("withdraw web", "remove web", "apply heir 1", "publish heir")]


def test_a_site_that_is_opened_on_such_a_node_knows_what_the_node_knows(book: Notebook, plane: PlacedPlane) -> None:
    plane.deafen("n3")
    plane.apply([WEB])
    plane.add_segment(replace(OTHER, node="n3", overlay_netns="n3.net"))
    assert book.sites["n3.net"] == {}
    plane.catch_up("n3")
    assert book.sites["n3.net"] == {"web": WEB}


def test_what_a_node_has_lost_is_right_after_the_next_change_of_that_service(
    book: Notebook, plane: PlacedPlane
) -> None:
    other = replace(WEB, name="other", vip="10.0.0.9")
    plane.apply([WEB, other])
    plane.deafen("n2")
    plane.apply([LESS])
    plane.remove([other])
    plane.apply([replace(WEB, name="new", vip="10.0.0.8")])
    plane.hear("n2")
    assert book.sites["n2.net"] == {"web": WEB, "other": other}
    third = replace(WEB, backends=(*WEB.backends, Backend("10.0.0.7")))
    plane.apply([third])
    assert book.sites["n2.net"] == {"web": third, "other": other}
    book.log.clear()
    plane.remove([replace(WEB, name="new")])
    assert [line for line in book.log if line.startswith("n2")] == [], "it never knew that service"
    plane.resync()
    assert book.sites["n2.net"] == book.sites["n1.net"] == {"web": third}


def test_a_vip_is_taken_from_a_service_of_whose_removal_a_node_has_not_heard(
    book: Notebook, plane: PlacedPlane
) -> None:
    plane.apply([WEB])
    plane.deafen("n2")
    plane.remove([WEB])
    plane.hear("n2")
    book.log.clear()
    heir = replace(LESS, name="heir")
    plane.apply([heir])
    there = [line for line in book.log if line.startswith("n2")]
    assert there == [f"n2.net {step}" for step in ("withdraw web", "remove web", "apply heir 1", "publish heir")]
    book.log.clear()
    plane.resync()
    assert book.sites["n2.net"] == book.sites["n1.net"] == {"heir": heir}
    assert "n2.net withdraw web" not in book.log, "it is the heir's VIP"


def test_a_node_that_cannot_catch_up_still_knows_what_it_knew(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([WEB])
    plane.deafen("n2")
    plane.apply([LESS])
    book.refuse = "n2.net"
    with pytest.raises(KernelRefused):
        plane.catch_up("n2")
    book.refuse = ""
    assert book.sites["n2.net"] == {"web": WEB}
    plane.resync()
    assert book.sites["n2.net"] == {"web": LESS}
