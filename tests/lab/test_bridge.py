"""nft-bridge on a real kernel: what its connection table remembers, for how long, and what survives what."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from bench.inside import trial
from dataplanes import catalog
from dataplanes.bridge_rules import BACK, FORTH
from dataplanes.kernel import process
from dataplanes.kernel.nft import Nftables
from scenarios import topology
from scenarios.flush import flush_one
from scenarios.journal import Journal
from scenarios.lab import Lab
from tests.lab.conftest import CLIENT, VIP, View, running

pytestmark = pytest.mark.planes("nft-bridge")

DAYS = 86_400


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running("nft-bridge") as lab:
        yield lab


def table(lab: Lab) -> dict[str, list[int]]:
    """Return the seconds that are left of each element on the client's node, by map."""
    (name,) = (name for kind, node, name in lab.namespaces() if (kind, node) == ("overlay", "worker2"))
    nft = Nftables(name)
    try:
        found = {each: nft.elements("bridge", "vip-my-network", each) for each in (*FORTH, *BACK)}
    finally:
        nft.close()
    return {each: sorted(round(element.left / 1000) for element in elements) for each, elements in found.items()}


def held(lab: Lab) -> dict[str, list[int]]:
    return {name: left for name, left in table(lab).items() if left}


def test_a_connection_is_remembered_by_its_state(lab: Lab) -> None:
    client = View(lab).connect()
    client.sendall(b"w")
    client.recv(256)
    assert near(held(lab), {"tcp-requests": 5 * DAYS, "tcp-replies": 5 * DAYS})
    client.close()
    assert near(held(lab), {"tcp-closing": 120, "tcp-replies": 120})


def test_a_reset_connection_is_forgotten_after_10_s(lab: Lab) -> None:
    client = View(lab).connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert near(held(lab), {"tcp-closing": 10, "tcp-replies": 10})


def test_a_refused_connection_is_forgotten_after_10_s(lab: Lab) -> None:
    with pytest.raises(ConnectionRefusedError):
        View(lab).connect(port=81)
    assert near(held(lab), {"tcp-closing": 10, "tcp-replies": 10})


def test_a_flow_is_a_stream_from_its_second_datagram_on(lab: Lab) -> None:
    with View(lab).datagram() as client:
        client.sendto(b"?", (VIP, 9))  # nobody answers there but by ICMP
        assert near(held(lab), {"udp-requests": 30, "udp-replies": 30})
        client.sendto(b"?", (VIP, 9))
        assert near(held(lab), {"udp-requests": 120, "udp-replies": 120})


def test_a_flow_whose_backend_was_gone_when_it_began_goes_on_when_that_is_there_again(lab: Lab) -> None:
    """The flow has no MAC then, and every packet renews it: it would be lost for as long as its client asks."""
    assert lab.plane
    plane, backends = (
        lab.plane,
        [end for name, each in lab.containers.items() for end in each.endpoints if "web" in name],
    )
    for end in backends:
        plane.remove_endpoint(end)
    with View(lab).datagram() as client:
        client.settimeout(0.5)
        for _ in range(2):
            client.sendto(b"?", (VIP, 80))
            with pytest.raises(TimeoutError):
                client.recv(256)
        for end in backends:
            plane.add_endpoint(end)
        client.settimeout(5)
        client.sendto(b"?", (VIP, 80))
        assert client.recv(256)


def near(found: dict[str, list[int]], wanted: dict[str, int]) -> bool:
    """Return True if each map has one element that was renewed within the last seconds."""
    assert {name: len(left) for name, left in found.items()} == dict.fromkeys(wanted, 1), found
    return all(wanted[name] - 8 <= left <= wanted[name] for name, (left,) in found.items())


def test_connections_go_on_when_somebody_else_has_made_a_transaction(lab: Lab) -> None:
    assert lab.plane
    made = [View(lab).connect() for _ in range(3)]
    before = {name: len(left) for name, left in held(lab).items()}
    for _, _, name in lab.namespaces():
        process.run(name, ("nft", "add table ip other"))
    lab.plane.resync()
    assert {name: len(left) for name, left in held(lab).items()} == before
    asked = []
    for client in made:
        client.sendall(b"w")
        asked.append(client.recv(256).decode().split()[0])
        client.close()
    assert sorted(asked) == ["1", "2", "3"]


def test_nft_can_list_the_rules(lab: Lab) -> None:
    """Nft 1.0.6 aborts at some rules that the kernel takes; none of ours may be among them."""
    View(lab).who()
    for kind, _, name in lab.namespaces():
        if kind == "overlay":
            assert "chain frames" in process.run(name, ("nft", "list", "ruleset"))


def test_what_has_no_room_in_the_table_is_refused_and_the_others_go_on() -> None:
    (selection,) = catalog.select("nft-bridge@connections=2")
    with Journal() as journal, trial.build(topology.load("seed"), selection, journal) as lab:
        view = View(lab)
        made = [view.connect(), view.connect()]
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                view.connect()
        for client in made:
            client.sendall(b"w")
            assert client.recv(256)
            client.close()


def test_a_flush_ends_connections_by_a_reset(lab: Lab) -> None:
    assert lab.plane
    client = View(lab).connect()
    for _, _, name in lab.namespaces():
        list(flush_one(name))
    lab.plane.resync()
    client.sendall(b"w")
    with pytest.raises(ConnectionResetError):
        client.recv(256)
    client.close()
    assert View(lab, CLIENT).spread(3) == {"1": 1, "2": 1, "3": 1}
