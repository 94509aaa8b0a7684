"""Echoes to a VIP and past it, at once and late, asked for or not, and the errors about them.

No plane balances them. Connection tracking keeps a request for 30 s, and calls a reply or an error without a request
INVALID (net/netfilter/nf_conntrack_proto_icmp.c). Each must arrive where it would arrive without a plane.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.lab.conftest import running
from tests.lab.segments import Arrival, End, Wire, checksum
from tests.lab.segments import wire as open_wire

ANSWERS = {
    "nft-container": False,
    "nft-overlay": True,
    "nft-bridge": True,
    "ipvs-container": None,
    "ipvs-overlay": True,
    "ebpf-tc": True,
}
"""Whether the VIP answers a request; on ipvs-container, where tasks have it as an address, check icmp.ping tells."""
LATE = 40
"""Seconds: more than connection tracking keeps a request."""
REQUEST, REPLY, UNREACHABLE = 8, 0, 3


def echo(kind: int, number: int) -> bytes:
    """Return an echo request, or the reply to it."""
    message = struct.pack(">BBHII4s", kind, 0, 0, number, 0, b"echo")
    return message[:2] + struct.pack(">H", checksum(message)) + message[4:]


def error(about: Arrival) -> bytes:
    """Return the error "host unreachable" about a packet."""
    message = struct.pack(">BBHI", UNREACHABLE, 1, 0, 0) + about.packet[:28]
    return message[:2] + struct.pack(">H", checksum(message)) + message[4:]


class Echoes:
    """A client and a backend that send each other ICMP messages."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.client, self.backend = wire.client, wire.backends[0]
        self.got: list[Arrival] = []

    def send(self, sender: End, to: str, message: bytes) -> str:
        """Return where the message arrives, as from whom, and whether it is answered."""
        sender.raw[socket.IPPROTO_ICMP].sendto(message, (to, 0))
        self.got = list(self.wire.arrivals(sender))
        ends = {self.client: "client", self.backend: "backend"}
        places = [
            ends.get(each.end, "other") + ("" if each.source == sender.address else f" from {each.source}")
            for each in self.got
            if each.end is not sender and each.payload == message
        ]
        answer = echo(REPLY, int.from_bytes(message[4:8], "big")) if message[0] == REQUEST else b""
        answered = [each.source == to for each in self.got if each.end is sender and each.payload == answer]
        assert all(each.intact() for each in self.got)
        return ", ".join(places + ["answered" if each else "answered by another" for each in answered]) or "lost"

    def last(self, end: End) -> Arrival:
        """Return what an end got last."""
        return [each for each in self.got if each.end is end][-1]


def to_the_vip(echoes: Echoes, *, answers: bool) -> Iterator[tuple[str, str, str]]:
    """Yield each message to the VIP: its name, what is seen, and what is right."""
    client, vip, answered = echoes.client, echoes.wire.vip, "answered" if answers else "lost"
    yield "a request to the VIP", echoes.send(client, vip, echo(REQUEST, 1)), answered
    if answers:
        yield "an error about the VIP's reply", echoes.send(client, vip, error(echoes.last(client))), "lost"
    yield "a reply to the VIP", echoes.send(client, vip, echo(REPLY, 2)), "lost"
    time.sleep(LATE)
    yield "a request to the VIP, late", echoes.send(client, vip, echo(REQUEST, 1)), answered


def past_it(echoes: Echoes) -> Iterator[tuple[str, str, str]]:
    """Yield the messages between a client and a backend by their own addresses."""
    client, backend = echoes.client, echoes.backend
    yield "a request", echoes.send(client, backend.address, echo(REQUEST, 3)), "backend, answered"
    asked, answered = echoes.last(backend), echoes.last(client)
    yield "an error about it", echoes.send(backend, client.address, error(asked)), "client"
    yield "an error about its reply", echoes.send(client, backend.address, error(answered)), "backend"
    yield "another reply", echoes.send(backend, client.address, echo(REPLY, 3)), "client"
    yield "the backend's request", echoes.send(backend, client.address, echo(REQUEST, 4)), "client, answered"
    yield "a reply to no request", echoes.send(backend, client.address, echo(REPLY, 5)), "client"
    time.sleep(LATE)
    yield "the reply, late", echoes.send(backend, client.address, echo(REPLY, 3)), "client"
    yield "an error about the request, late", echoes.send(backend, client.address, error(asked)), "client"


@pytest.mark.idle
@pytest.mark.parametrize("plane", ANSWERS)
def test_echoes_arrive_where_they_would_without_a_plane(plane: str) -> None:
    answers = ANSWERS[plane]
    with running(plane) as lab, open_wire(lab) as wire:
        echoes = Echoes(wire)
        wire.step(wire.flow(), "C:S")  # a connection through the VIP between the same two changes nothing
        told = [] if answers is None else to_the_vip(echoes, answers=answers)
        for what, seen, right in (*told, *past_it(echoes)):
            assert seen == right, what
