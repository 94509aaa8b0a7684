"""Flushing of connection entries by the ten thousand, in the kernel's table."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from dataplanes.kernel import conntrack, netlink, netns
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.netlink import CREATE, EXCL, Netlink, NetlinkError, Request, attribute

pytestmark = pytest.mark.planes("nft-lb")

NAME = f"hct-{os.getpid()}"
VIP, KEPT, REMOVED = "10.0.0.2", "10.0.0.20", "10.0.0.21"
IPV4 = struct.pack("=BBH", socket.AF_INET, 0, 0)
NEW, DELETE = 1 << 8 | 0, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*


@pytest.fixture
def table() -> Iterator[Conntrack]:
    netns.create(NAME)
    try:
        with Conntrack(NAME) as made:
            yield made
    finally:
        netns.delete(NAME)


@pytest.fixture
def wire(table: Conntrack) -> Iterator[Netlink]:
    made = Netlink(table.netns, netlink.NETFILTER)
    yield made
    made.close()


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(parts))


def endpoints(kind: int, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    addresses = [attribute(n, socket.inet_aton(each[0])) for n, each in enumerate((source, destination), 1)]
    ports = [attribute(n, struct.pack(">H", each[1])) for n, each in enumerate((source, destination), 2)]
    return nested(kind, nested(1, *addresses), nested(2, attribute(1, bytes([socket.IPPROTO_TCP])), *ports))


def client(number: int) -> tuple[str, int]:
    return f"10.1.{number // 60_000}.7", 1024 + number % 60_000


def entry(number: int) -> Request:
    """Return the request for an ended connection, in TIME_WAIT for two minutes.

    Every other one goes to the removed backend.
    """
    backend = (REMOVED, KEPT)[number % 2]
    body = endpoints(1, client(number), (VIP, 80)) + endpoints(2, (backend, 80), client(number))
    body += attribute(3, struct.pack(">I", 1 << 3)) + attribute(7, struct.pack(">I", 120))  # CTA_STATUS, CTA_TIMEOUT
    return Request(NEW, CREATE | EXCL, IPV4 + body + nested(4, nested(1, attribute(1, b"\x07"))))


def room(wanted: int) -> int:
    """Return how many of these connections this kernel has room for."""
    with open("/proc/sys/net/netfilter/nf_conntrack_max", encoding="ascii") as file:
        return min(wanted, int(file.read()) * 9 // 10)


def test_a_removed_backend_is_forgotten_by_the_ten_thousand(table: Conntrack, wire: Netlink) -> None:
    many = room(100_000)
    wire.send(entry(number) for number in range(many))
    assert table.count() == many
    assert table.flush({VIP: [KEPT]}) == many // 2
    assert table.count() == many - many // 2
    assert table.flush({VIP: [KEPT]}) == 0
    others = {f"10.0.9.{number}": [KEPT] for number in range(9)}  # more than the kernel is asked for one by one
    assert table.flush({VIP: [], **others}) == many - many // 2
    assert table.count() == 0


def test_entries_that_expire_meanwhile_by_the_ten_thousand_are_fine(wire: Netlink) -> None:
    """Each request gets an error, and together they are more than the socket's buffer holds."""
    gone = [Request(DELETE, 0, IPV4 + endpoints(1, client(number), (VIP, 80))) for number in range(20_000)]
    wire.send(gone, ignore=(errno.ENOENT,))


@pytest.mark.machine
def test_a_table_is_full_and_has_room_again(table: Conntrack, wire: Netlink) -> None:
    table.occupy(100)
    with conntrack.room(99):
        with pytest.raises(NetlinkError, match="refused"):
            wire.send([entry(0)])
        table.vacate()
        wire.send([entry(0)])
    assert table.count() == 1
    table.occupy(100)
    wire.send([entry(1)])
    assert table.count() == 102


def test_after_a_refusal_the_next_answer_is_the_next_questions(table: Conntrack, wire: Netlink) -> None:
    missing = Request(DELETE, 0, IPV4 + endpoints(1, client(1), (VIP, 80)))
    with pytest.raises(NetlinkError):
        wire.send(missing for _ in range(1000))
    wire.send([entry(0)])
    assert len(wire.dump(NEW | 1, IPV4)) == 1
    wire._socket.send(wire._encode(missing, wire._sequence))  # an error that nothing waits for
    wire._sequence += 1
    assert len(wire.dump(NEW | 1, IPV4)) == 1
