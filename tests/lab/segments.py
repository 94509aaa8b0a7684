"""Connections through a VIP, packet by packet. Both ends are raw sockets, so a connection stays in any state.

A step names who sends what. C is the client, B the backend. S is a SYN, SA a SYN with an acknowledgement, A an
acknowledgement alone, D data, F a FIN, R a reset, RA the reset that refuses a SYN, U a port-unreachable about the last
segment that arrived. `C:S B:SA C:A` is a connection that a backend accepted. UDP has D and U. SCTP has the chunks of
sctp.py and U. Each step tells where its packet arrived.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

from msgspec import Struct

from dataplanes.kernel import sysctl
from dataplanes.kernel.nft import Nftables
from scenarios.lab import Lab
from scenarios.topology import ServiceSpec, Task
from tests.lab import sctp
from tests.lab.conftest import CLIENT

PORT = 7000
_TTL = 128
"""The TTL of packets that are sent here. The kernels' own answers to unknown connections have 64, and are kept back."""
_QUIET = """
add table ip quiet
add chain ip quiet output { type filter hook output priority raw; }
add rule ip quiet output oifname "eth0" ip ttl 64 tcp flags & rst == rst drop
add rule ip quiet output oifname "eth0" ip ttl 64 icmp type destination-unreachable drop
add rule ip quiet output oifname "eth0" ip ttl 64 ip protocol sctp drop
"""
_FLAGS = {"S": 0x02, "SA": 0x12, "A": 0x10, "D": 0x18, "F": 0x11, "R": 0x14, "RA": 0x14}
OPENS = {socket.IPPROTO_TCP: "C:S", socket.IPPROTO_UDP: "C:D", socket.IPPROTO_SCTP: "C:I"}
"""The step that begins a connection."""
_CHECKSUM = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}
_MARK = {socket.IPPROTO_TCP: slice(4, 12), socket.IPPROTO_UDP: slice(8, 12), socket.IPPROTO_SCTP: slice(12, None)}
"""What distinguishes one packet from all others: TCP's two sequence numbers, a datagram's or a chunk's content."""
_PATIENCE = 10
"""Seconds in which a packet that must arrive does."""


class Arrival(Struct):
    """An IPv4 packet as an end received it."""

    end: End
    packet: bytes

    @property
    def source(self) -> str:
        return socket.inet_ntoa(self.packet[12:16])

    @property
    def payload(self) -> bytes:
        return self.packet[(self.packet[0] & 15) * 4 :]

    @property
    def protocol(self) -> int:
        return self.packet[9]

    def is_about(self, flow: Flow) -> bool:
        """Return True if it is an ICMP error about one of the flow's packets."""
        return self.protocol == socket.IPPROTO_ICMP and flow.port in struct.unpack(">HH", _quoted(self.payload)[:4])

    def intact(self) -> bool:
        """Return True if the checksum fits. SCTP's has no part in addresses; the others' must change with them."""
        if self.protocol == socket.IPPROTO_SCTP:
            return sctp.sealed(self.payload) == self.payload
        pseudo = (
            b""
            if self.protocol == socket.IPPROTO_ICMP
            else _pseudo_header(self.packet[12:20], self.protocol, len(self.payload))
        )
        return not checksum(pseudo + self.payload)


class End:
    """The raw sockets of a container, by protocol."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        self.address = lab.containers[name].endpoints[0].address
        protocols = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP, socket.IPPROTO_ICMP)
        self.raw = {each: lab.socket(name, socket.SOCK_RAW, each) for each in protocols}
        for each in self.raw.values():
            each.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL)
            each.setblocking(False)
            each.bind((self.address, 0))
        self._nft = Nftables(lab.containers[name].netns)
        self._nft.run(_QUIET)

    def close(self) -> None:
        for each in self.raw.values():
            each.close()
        self._nft.run("delete table ip quiet")
        self._nft.close()


class Flow:
    """A connection: what each end sends next, and its backend once that is chosen."""

    def __init__(self, number: int, protocol: int) -> None:
        self.protocol = protocol
        self.port = 10_000 + number
        self.next = {"C": (number << 16) + 1, "B": (1 << 31) + (number << 16) + 1}
        self.tags = dict(self.next)  # SCTP's
        self.backend: End | None = None
        self.peer = ("", 0)  # the client's address and port as the backend sees them
        self.last: dict[str, bytes] = {}  # the last packet that arrived at each end


class Wire:
    """A client, and two backends of a service that the test creates."""

    def __init__(self, lab: Lab, service: str, client: End, backends: list[End]) -> None:
        self.lab = lab
        self.service = service
        self.vip = lab.service(service).vip
        self.client = client
        self.backends = backends
        self._flows = self._marks = 0

    def flow(self, protocol: int = socket.IPPROTO_TCP) -> Flow:
        """Return a connection that does not exist yet."""
        self._flows += 1
        return Flow(self._flows, protocol)

    def step(self, flow: Flow, step: str) -> str:
        """Send from one end, and return where the packet arrived.

        The result is `backend`, `other` (a backend that the connection does not have), `client`, `stray` (at the
        client, but not from the VIP) or `lost`. It also tells a reset or an ICMP error that the sender gets for the
        packet.
        """
        side, _, what = step.partition(":")
        for end in self._ends():
            _drain(end)
        if what == "U":
            return self._complain(flow, side)
        sender, destination = (self.client, self.vip) if side == "C" else (flow.backend, flow.peer[0])
        assert sender, "no backend yet"
        segment = _sealed(flow.protocol, self._made(flow, side, what), sender.address, destination)
        with suppress(PermissionError):  # dropped in the sender's own namespace, which TCP treats as any other loss
            sender.raw[flow.protocol].sendto(segment, (destination, 0))
        arrived, told = "lost", ""
        for each in self.arrivals(sender):
            if each.end is sender and each.is_about(flow):
                told = "; told by ICMP"
            elif each.end is sender and each.protocol == socket.IPPROTO_TCP and each.payload[13] & 4:
                told = "; reset"
            elif each.end is not sender and each.protocol == flow.protocol and arrived == "lost":
                same = each.payload[_MARK[flow.protocol]] == segment[_MARK[flow.protocol]]
                arrived = self._place(flow, side, each) if same else arrived
        return arrived + told

    def turn_to_other(self, flow: Flow) -> None:
        """Make the next new connection go to the backend that does not have this one, so that a new decision is seen.

        With round robin, the connection before it must therefore have gone to this one's backend.
        """
        for _ in range(2 * len(self.backends)):
            probe = self.flow(flow.protocol)
            self.step(probe, OPENS[flow.protocol])
            if probe.backend is flow.backend:
                return
        raise AssertionError("four new connections never came to one of two backends")

    def _place(self, flow: Flow, side: str, arrival: Arrival) -> str:
        assert arrival.intact(), "a checksum that does not fit the addresses"
        if side == "B":
            flow.last["C"] = arrival.packet
            return "client" if arrival.source == self.vip else "stray"
        flow.last["B"] = arrival.packet
        if flow.backend is None:
            flow.backend = arrival.end
        if flow.backend is not arrival.end:
            return "other"
        flow.peer = arrival.source, int.from_bytes(arrival.payload[:2], "big")
        return "backend"

    def _made(self, flow: Flow, side: str, what: str) -> bytes:
        """Return what follows the IP header, without a checksum."""
        if flow.protocol == socket.IPPROTO_TCP:
            return self._segment(flow, side, what)
        return self._datagram(flow, side) if flow.protocol == socket.IPPROTO_UDP else self._chunk(flow, side, what)

    def _segment(self, flow: Flow, side: str, what: str) -> bytes:
        """Return the TCP header and data without a checksum, and advance the sequence number."""
        peer = "B" if side == "C" else "C"
        flags = _FLAGS[what]
        data = b"data" if what == "D" else b""
        # A port that is used again needs a sequence number above the last connection's (RFC 9293, 3.6.1).
        if what == "S" and flow.last:
            flow.next[side] += 1 << 14
        sequence = 0 if what == "RA" else flow.next[side]
        source, destination = (flow.port, PORT) if side == "C" else (PORT, flow.peer[1])
        acknowledges = flow.next[peer] if flags & 0x10 else 0
        segment = struct.pack(">HHIIBBHHH", source, destination, sequence, acknowledges, 5 << 4, flags, 64240, 0, 0)
        flow.next[side] += len(data) + bool(flags & 3)
        return segment + data

    def _datagram(self, flow: Flow, side: str) -> bytes:
        source, destination = (flow.port, PORT) if side == "C" else (PORT, flow.peer[1])
        flow.next[side] += 1
        return struct.pack(">HHHHI", source, destination, 12, 0, flow.next[side])

    def _chunk(self, flow: Flow, side: str, what: str) -> bytes:
        """Return SCTP's header and one chunk. An end has another tag in each association."""
        peer = "B" if side == "C" else "C"
        ports = (flow.port, PORT) if side == "C" else (PORT, flow.peer[1])
        flow.next[side] += 1
        if what == "I":
            flow.tags[side] = flow.next[side]
        return sctp.packet(what, ports, flow.tags[side], flow.tags[peer], flow.next[side])

    def _complain(self, flow: Flow, side: str) -> str:
        """Return a port-unreachable. The other end must see it come from, and quote, addresses that it knows."""
        sender = self.client if side == "C" else flow.backend
        packet = flow.last[side]
        assert sender
        body = struct.pack(">BBHI", 3, 3, 0, 0) + packet[:28]
        body = body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        sender.raw[socket.IPPROTO_ICMP].sendto(body, (self.vip if side == "C" else flow.peer[0], 0))
        for each in list(self.arrivals(sender)):
            if each.end is sender or not each.is_about(flow):
                continue
            assert each.intact(), "a checksum that does not fit the error"
            quoted = each.payload[8:28]
            if side == "B":
                known = (each.source, socket.inet_ntoa(quoted[16:20])) == (self.vip, self.vip)
                return "client" if known else "stray"
            known = socket.inet_ntoa(quoted[12:16]) == each.end.address
            return ("backend" if each.end is flow.backend else "other") if known else "stray"
        return "lost"

    def _ends(self) -> list[End]:
        return [self.client, *self.backends]

    def arrivals(self, sender: End) -> Iterator[Arrival]:
        """Yield what arrives at any end ahead of a mark, which the sender sends to each of the others.

        The mark is an echo reply that nobody asked for. No packet overtakes another here, so what comes later than the
        mark does not come at all. What the sender itself gets is an answer from the way.
        """
        self._marks += 1
        mark = struct.pack(">BBHI", 0, 0, 0, self._marks)
        mark = mark[:2] + struct.pack(">H", checksum(mark)) + mark[4:]
        waited = [end for end in self._ends() if end is not sender]
        for end in waited:
            sender.raw[socket.IPPROTO_ICMP].sendto(mark, (end.address, 0))
        sockets = {each: end for end in self._ends() for each in end.raw.values()}
        while ready := select.select(list(sockets), [], [], _PATIENCE if waited else 0)[0]:
            for each in ready:
                arrival = Arrival(sockets[each], each.recv(2048))
                if arrival.payload != mark:
                    yield arrival
                elif arrival.end in waited:
                    waited.remove(arrival.end)
        assert not waited, "a mark did not arrive"


def _quoted(error: bytes) -> bytes:
    """Return the transport header that an ICMP error quotes."""
    return error[8 + (error[8] & 15) * 4 :] if len(error) > 8 else b""


def _pseudo_header(addresses: bytes, protocol: int, length: int) -> bytes:
    return addresses + struct.pack(">HH", protocol, length)


def _sealed(protocol: int, segment: bytes, source: str, destination: str) -> bytes:
    """Return what follows the IP header, with its checksum."""
    if protocol == socket.IPPROTO_SCTP:
        return sctp.sealed(segment)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    made = checksum(_pseudo_header(addresses, protocol, len(segment)) + segment)
    at = _CHECKSUM[protocol]
    return segment[:at] + struct.pack(">H", made) + segment[at + 2 :]


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _drain(end: End) -> None:
    for each in end.raw.values():
        try:
            while True:
                each.recv(2048)
        except BlockingIOError:
            pass


@contextmanager
def wire(lab: Lab) -> Iterator[Wire]:
    """Create a service with a task on each worker."""
    for _, _, name in lab.namespaces():
        sysctl.write(name, {"net.ipv4.icmp_ratemask": "0"})  # so that every error is reported
    tasks = [Task(f"cells.{n + 1}", node) for n, node in enumerate(("worker1", "worker2"))]
    lab.create_service(ServiceSpec("cells", "my-network", tasks=tasks))
    with ExitStack() as stack:
        client, *backends = (stack.enter_context(closing(End(lab, name))) for name in (CLIENT, "cells.1", "cells.2"))
        yield Wire(lab, "cells", client, backends)
