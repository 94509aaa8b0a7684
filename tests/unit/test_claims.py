"""An address that is in use is refused, and the refusal comes before anything is programmed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dataplanes.base import Site
from dataplanes.errors import Usage
from dataplanes.ipvs_knobs import OVERLAY, IpvsKnobs
from dataplanes.ipvs_rules import Rules
from dataplanes.model import Backend, Endpoint, Service
from dataplanes.placed import PlacedPlane
from scenarios.pool import Pool
from tests.unit.test_placed import OTHER, SEGMENT, WEB, NoAttachments, Notebook, Shelf


@pytest.fixture
def book() -> Notebook:
    return Notebook()


@pytest.fixture
def plane(book: Notebook) -> PlacedPlane:
    plane = PlacedPlane("notebook-shelf", Shelf(book.log), book, NoAttachments())
    plane.add_segment(SEGMENT)
    plane.add_segment(OTHER)
    plane.add_endpoint(endpoint("web.1", "10.0.0.3"))
    plane.apply([WEB])
    book.log.clear()
    return plane


def endpoint(name: str, address: str) -> Endpoint:
    return Endpoint(name, "net", "n1", name, "eth0", address, "02:42:0a:00:00:09", "n1.net", "veth9")


def service(vip: str, *backends: str, name: str = "thief") -> Service:
    return Service(name, "net", vip, tuple(map(Backend, backends)))


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ([service("10.0.0.2")], r"10\.0\.0\.2 is taken: it is the VIP of web"),
        ([service("10.0.0.3")], r"10\.0\.0\.3 is taken: it is the address of web\.1"),
        ([service("10.0.0.1")], r"10\.0\.0\.1 is taken: it is the address of the network's bridge"),
        ([service("10.0.1.2")], r"10\.0\.1\.2 is outside net: that is 10\.0\.0\.0/24"),
        ([service("10.0.0.0")], r"10\.0\.0\.0 cannot be used"),
        ([service("10.0.0.255")], r"10\.0\.0\.255 cannot be used"),
        ([service("10.0.0")], r"'10\.0\.0' is not an IPv4 address"),
        ([service("10.0.0.9", "10.0.0.3", "10.0.0.3")], r"10\.0\.0\.3 is a backend twice"),
        ([service("10.0.0.9", "10.0.0.9")], r"10\.0\.0\.9 is VIP and backend at once"),
        ([service("10.0.0.9"), service("10.0.0.10")], "two services have this name"),
        ([service("10.0.0.9"), service("10.0.0.9", name="b")], r"10\.0\.0\.9 is the VIP of two services"),
        ([service("10.0.0.9"), replace(WEB, vip="10.0.0.9")], r"10\.0\.0\.9 is the VIP of two services"),
        ([replace(WEB, vip="10.0.0.3")], r"10\.0\.0\.3 is taken"),
        ([replace(service("10.0.0.9"), network="nowhere")], "there is no network 'nowhere'"),
    ],
)
def test_a_service_that_cannot_be_is_refused_before_anything_is_programmed(
    book: Notebook, plane: PlacedPlane, wanted: list[Service], why: str
) -> None:
    fine = service("10.0.0.77", "10.0.0.3", name="fine")
    with pytest.raises(Usage, match=why):
        plane.apply([fine, *wanted])
    assert book.log == []
    plane.apply([fine])
    plane.remove([fine])


def test_a_container_whose_address_is_taken_is_refused(book: Notebook, plane: PlacedPlane) -> None:
    for address in ("10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.1.7"):
        with pytest.raises(Usage, match=f"{address} is (taken|outside)"):
            plane.add_endpoint(endpoint("new.1", address))
    with pytest.raises(Usage, match=r"web\.1 is on net already"):
        plane.add_endpoint(endpoint("web.1", "10.0.0.20"))
    assert book.log == []
    plane.add_endpoint(endpoint("new.1", "10.0.0.20"))


def test_what_was_given_back_can_be_had_again(plane: PlacedPlane) -> None:
    plane.remove([WEB])
    plane.apply([service("10.0.0.2")])
    plane.remove_endpoint(endpoint("web.1", "10.0.0.3"))
    plane.apply([service("10.0.0.3", name="heir")])
    with pytest.raises(Usage, match="it is the VIP of heir"):
        plane.add_endpoint(endpoint("web.1", "10.0.0.3"))


def test_vips_may_change_hands_in_one_step(book: Notebook, plane: PlacedPlane) -> None:
    plane.apply([service("10.0.0.9", "10.0.0.3", name="other")])
    book.log.clear()
    plane.apply([replace(WEB, vip="10.0.0.9"), service("10.0.0.2", "10.0.0.3", name="other")])
    assert not [line for line in book.log if "publish" in line or "withdraw" in line]
    plane.apply([replace(WEB, vip="10.0.0.30")])
    plane.apply([service("10.0.0.9", "10.0.0.3")])


def test_a_segment_or_a_network_told_twice_is_refused(plane: PlacedPlane) -> None:
    with pytest.raises(Usage, match="net is on n1 already"):
        plane.add_segment(SEGMENT)
    with pytest.raises(Usage, match=r"net is 10\.0\.0\.0/25 here and 10\.0\.0\.0/24 elsewhere"):
        plane.add_segment(replace(SEGMENT, node="n3", subnet="10.0.0.0/25"))


@pytest.mark.parametrize("subnet", ["10.0.0.0/24", "10.0.0.128/25", "172.30.4.0/22", "192.168.7.8/29"])
def test_nobody_can_have_the_address_that_stands_for_a_backend_that_reaches_itself(
    book: Notebook, plane: PlacedPlane, subnet: str
) -> None:
    segment = replace(SEGMENT, network="further", subnet=subnet)
    plane.add_segment(segment)
    site = Site("ns", "further", "n1", subnet, "bridge", "hairpin-snat", "br0", "")
    knobs = OVERLAY["map"]
    assert isinstance(knobs, IpvsKnobs)
    reserved = Rules(site, knobs, lambda service: 1).reserved
    with pytest.raises(Usage, match="cannot be used"):
        plane.add_endpoint(replace(endpoint("x", reserved), network="further"))
    with pytest.raises(Usage, match="cannot be used"):
        plane.apply([Service("x", "further", reserved)])
    assert Pool(subnet).claim(reserved), "a scenario cannot give it away either"
