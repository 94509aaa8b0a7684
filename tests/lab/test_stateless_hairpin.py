"""The nft table that lets a backend reach itself without connection tracking, on a real kernel and without IPVS.

A packet as IPVS sends it on, from a backend's address to the same address, is sent by the bridge's namespace itself.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from dataplanes.base import Site
from dataplanes.filters import NftTable
from dataplanes.ipvs_knobs import OVERLAY, IpvsKnobs
from dataplanes.ipvs_rules import Rules
from dataplanes.kernel import netns
from dataplanes.kernel.undo import Undo
from dataplanes.model import Backend, Service
from dataplanes.vips import LocalRoutes
from scenarios.checks.world import checksum
from tests.lab.bridged import ADDRESS, BACKENDS, SWITCH, VIP, World

pytestmark = pytest.mark.planes("nft-bridge")

BACKEND, RESERVED = BACKENDS[0], "10.0.0.0"
PORT = "p2"  # the bridge port of the first machine, behind those of the client and the balancer
OPEN, CLOSED = 5353, 4711
_IP, _OUTGOING = 0x0800, 4  # ETH_P_IP, PACKET_OUTGOING


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        made.build()
        yield made
    finally:
        made.demolish()


@pytest.fixture
def table(world: World) -> Iterator[NftTable]:
    site = Site(SWITCH, "web net", "node", "10.0.0.0/24", "bridge", "hairpin-snat", "br0", ADDRESS[SWITCH])
    knobs = OVERLAY["map"]
    assert isinstance(knobs, IpvsKnobs)
    rules = Rules(site, knobs, lambda service: 0x101)
    assert rules.reserved == RESERVED
    made = NftTable(SWITCH, rules.table, rules.base(), rules.first())
    LocalRoutes().own(SWITCH, "br0", [RESERVED])
    with Undo() as undo:
        made.open()
        made.change((), rules.entries([Service("web", "web net", VIP, (Backend(BACKEND),))]), undo)
    yield made
    made.close()


def sent_back(port: int) -> bytes:
    """Send the backend a datagram of its own; return the packet that goes to it through its port as the answer."""
    with netns.inside(SWITCH):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))  # ETH_P_ALL: outgoing ones, too
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with tap, raw:
        tap.bind((PORT, 0x0003))
        tap.settimeout(5)
        own = socket.inet_aton(BACKEND)
        datagram = struct.pack(">HHHH", 40000, port, 8 + 4, 0) + b"self"
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0) + own + own
        raw.sendto(header + datagram, (BACKEND, 0))
        while True:
            frame, (_, protocol, kind, *_) = tap.recvfrom(2048)
            if protocol == _IP and kind == _OUTGOING and frame[26:34] == own + own:
                return frame[14:]


def test_an_answer_to_oneself_comes_back(table: NftTable, world: World) -> None:
    server = world.udp[1]  # of the first machine, at OPEN
    server.settimeout(5)
    seen = []

    def echo() -> None:
        data, source = server.recvfrom(64)
        seen.append(source)
        server.sendto(data, source)

    thread = threading.Thread(target=echo)
    thread.start()
    answer = sent_back(OPEN)
    thread.join()
    assert seen == [(RESERVED, 40000)], "a backend takes no packet from its own address"
    assert answer[9] == socket.IPPROTO_UDP
    assert struct.unpack(">HH", answer[20:24]) == (OPEN, 40000)
    assert checksum(answer[:20]) == b"\0\0"


def test_a_refusal_quotes_what_the_backend_sent(table: NftTable) -> None:
    error = sent_back(CLOSED)
    assert error[9] == socket.IPPROTO_ICMP
    assert (error[20], error[21]) == (3, 3)  # port unreachable
    own = socket.inet_aton(BACKEND)
    assert error[40:48] == own + own, "IPVS would not find the connection"
    assert checksum(error[:20]) == b"\0\0"
    assert checksum(error[28:48]) == b"\0\0"
    message = error[20:] + b"\0" * (len(error) % 2)
    assert checksum(message) == b"\0\0"


def test_what_was_removed_is_restored_whole(table: NftTable) -> None:
    before = table.footprint()
    table.clear()
    table.restore()
    assert table.footprint() == before
    assert sent_back(CLOSED)[40:44] == socket.inet_aton(BACKEND)
