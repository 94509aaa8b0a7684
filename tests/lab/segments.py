"""Connections through a VIP, packet by packet. Both ends are raw sockets, so a connection stays in any state.

A step names who sends what. C is the client, B the backend. S is a SYN, SA a SYN with an acknowledgement, A an
acknowledgement alone, D data, F a FIN, R a reset, RA the reset that refuses a SYN, U a port-unreachable about the last
segment that arrived. `C:S B:SA C:A` is a connection that a backend accepted. UDP has D and U. Each step tells where its
packet arrived.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

from msgspec import Struct

from dataplanes.kernel import sysctl
from dataplanes.kernel.nft import Nftables
from scenarios.lab import Lab
from scenarios.topology import ServiceSpec, Task
from tests.lab.conftest import CLIENT

PORT = 7000
_TTL = 128
"""The TTL of packets that are sent here. The kernels' own answers to unknown connections have 64, and are kept back."""
_QUIET = """
add table ip quiet
add chain ip quiet output { type filter hook output priority raw; }
add rule ip quiet output oifname "eth0" ip ttl 64 tcp flags & rst == rst drop
add rule ip quiet output oifname "eth0" ip ttl 64 icmp type destination-unreachable drop
"""
_FLAGS = {"S": 0x02, "SA": 0x12, "A": 0x10, "D": 0x18, "F": 0x11, "R": 0x14, "RA": 0x14}
_CHECKSUM = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6}
_MARK = {socket.IPPROTO_TCP: slice(4, 12), socket.IPPROTO_UDP: slice(8, 12)}
"""The mark that distinguishes one packet from all others: TCP's two sequence numbers, or a datagram's content."""
_ARRIVES = 0.2
"""Seconds after which a packet that has not arrived counts as lost. Nothing on the way waits for anything."""


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
        """Return True if the checksum fits. Whoever changes addresses on the way must change it, too."""
        pseudo = (
            b""
            if self.protocol == socket.IPPROTO_ICMP
            else _pseudo_header(self.packet[12:20], self.protocol, len(self.payload))
        )
        return not _checksum(pseudo + self.payload)


class End:
    """The raw sockets of a container, by protocol."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        self.address = lab.containers[name].endpoints[0].address
        protocols = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP)
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
        self.backend: End | None = None
        self.peer = ("", 0)  # the client's address and port as the backend sees them
        self.last: dict[str, bytes] = {}  # the last packet that arrived at each end


class Wire:
    """A client, and two backends of a service that the test creates."""

    def __init__(self, lab: Lab, service: str, client: End, backends: list[End]) -> None:
        self.lab = lab
        self.service = service
        self._vip = lab.service(service).vip
        self._client = client
        self.backends = backends
        self._flows = 0

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
        sender, destination = (self._client, self._vip) if side == "C" else (flow.backend, flow.peer[0])
        assert sender, "no backend yet"
        segment = self._segment(flow, side, what) if flow.protocol == socket.IPPROTO_TCP else self._datagram(flow, side)
        sealed = _sealed(flow.protocol, segment, sender.address, destination)
        with suppress(PermissionError):  # dropped in the sender's own namespace, which TCP treats as any other loss
            sender.raw[flow.protocol].sendto(sealed, (destination, 0))
        arrived, told = "lost", ""
        for each in self._arrivals(sender):
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
            self.step(probe, "C:S" if flow.protocol == socket.IPPROTO_TCP else "C:D")
            if probe.backend is flow.backend:
                return
        raise AssertionError("four new connections never came to one of two backends")

    def _place(self, flow: Flow, side: str, arrival: Arrival) -> str:
        assert arrival.intact(), "a checksum that does not fit the addresses"
        if side == "B":
            flow.last["C"] = arrival.packet
            return "client" if arrival.source == self._vip else "stray"
        flow.last["B"] = arrival.packet
        if flow.backend is None:
            flow.backend = arrival.end
        if flow.backend is not arrival.end:
            return "other"
        flow.peer = arrival.source, int.from_bytes(arrival.payload[:2], "big")
        return "backend"

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

    def _complain(self, flow: Flow, side: str) -> str:
        """Return a port-unreachable. The other end must see it come from, and quote, addresses that it knows."""
        sender = self._client if side == "C" else flow.backend
        packet = flow.last[side]
        assert sender
        body = struct.pack(">BBHI", 3, 3, 0, 0) + packet[:28]
        body = body[:2] + struct.pack(">H", _checksum(body)) + body[4:]
        sender.raw[socket.IPPROTO_ICMP].sendto(body, (self._vip if side == "C" else flow.peer[0], 0))
        for each in self._arrivals(sender):
            if each.end is sender or not each.is_about(flow):
                continue
            assert each.intact(), "a checksum that does not fit the error"
            quoted = each.payload[8:28]
            if side == "B":
                known = (each.source, socket.inet_ntoa(quoted[16:20])) == (self._vip, self._vip)
                return "client" if known else "stray"
            known = socket.inet_ntoa(quoted[12:16]) == each.end.address
            return ("backend" if each.end is flow.backend else "other") if known else "stray"
        return "lost"

    def _ends(self) -> list[End]:
        return [self._client, *self.backends]

    def _arrivals(self, sender: End) -> Iterator[Arrival]:
        """Collect what arrives anywhere until nothing more comes.

        A packet that the sender gets is an answer from the way.
        """
        sockets = {each: end for end in self._ends() for each in end.raw.values()}
        until = time.monotonic() + _ARRIVES
        seen = False
        while ready := select.select(list(sockets), [], [], 0 if seen else max(0, until - time.monotonic()))[0]:
            for each in ready:
                yield Arrival(sockets[each], each.recv(2048))
            seen = True


def _quoted(error: bytes) -> bytes:
    """Return the transport header that an ICMP error quotes."""
    return error[8 + (error[8] & 15) * 4 :] if len(error) > 8 else b""


def _pseudo_header(addresses: bytes, protocol: int, length: int) -> bytes:
    return addresses + struct.pack(">HH", protocol, length)


def _sealed(protocol: int, segment: bytes, source: str, destination: str) -> bytes:
    """Return the segment or datagram with its checksum."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    checksum = _checksum(_pseudo_header(addresses, protocol, len(segment)) + segment)
    at = _CHECKSUM[protocol]
    return segment[:at] + struct.pack(">H", checksum) + segment[at + 2 :]


def _checksum(data: bytes) -> int:
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
