"""The elements of the eBPF planes' maps that have decided about packets with given ends (dataplanes/bpf/balance.h)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterator, Mapping

from dataplanes.ebpf_connections import Connection, Connections
from dataplanes.elements import Decisive
from dataplanes.kernel.bpf import Map

_SERVICE, _TURN, _PEER = struct.Struct("=IIQ"), struct.Struct("=4sII"), struct.Struct("=8x4s2s2x")
_FRAGMENT, _REWRITE = struct.Struct("=4s4sII"), struct.Struct("=4s4sI")
Chosen = Mapping[tuple[str, str], str]
"""A VIP and a backend of it -> the elements by which that was chosen."""
_PROTOCOLS = {number: name for name, number in {"tcp": 6, "udp": 17, "icmp": 1, "sctp": 132}.items()}


def elements(node: str, maps: Mapping[str, Map], ends: Collection[str], since: int) -> Iterator[Decisive]:
    """Yield what has decided about packets with these ends since a time of the monotonic clock."""
    turns = dict(_turns(maps, {end.partition(":")[0] for end in ends}))
    if "ends" in maps:
        yield from _pings(node, maps, turns)
        for each in Connections.entries(maps):
            if _end(each.client, each.client_port) in ends and _end(each.vip, each.port) in ends:
                yield from _of_connection(node, each, turns, new=each.begun_since(since))
        yield from _fragments(node, maps["fragments"], {end.partition(":")[0] for end in ends})
    else:
        yield from _of_sockets(node, maps["vips"], turns, ends)


def _turns(maps: Mapping[str, Map], addresses: Collection[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield each VIP and backend with the elements by which that was chosen: the service, and then its turn.

    A backend with several turns may have been chosen by any of these.
    """
    for key, value in maps["services"].get(map(socket.inet_aton, addresses)):
        total, epoch, _ = _SERVICE.unpack(value)
        vip, numbers = socket.inet_ntoa(key), dict[str, list[str]]()
        for turn, backend in maps["turns"].get(_TURN.pack(key, epoch, number) for number in range(total)):
            numbers.setdefault(socket.inet_ntoa(backend), []).append(str(_TURN.unpack(turn)[2]))
        for address, found in numbers.items():
            yield (vip, address), f"services[{vip}] = {_told(total)}, turns[{vip}, {' or '.join(found)}] = {address}"


def _of_connection(node: str, each: Connection, turns: Chosen, *, new: bool) -> Iterator[Decisive]:
    """Yield what a connection's entry explains: where its packets go, and whose its answers are.

    The packet that has begun it had a turn. A backend that was sent to itself sees the VIP as its client
    (dataplanes/bpf/balance.h, to_vip).
    """
    protocol = _PROTOCOLS.get(each.protocol, str(each.protocol))
    client, vip = _end(each.client, each.client_port), _end(each.vip, each.port)
    backend = _end(each.backend, each.port)
    itself = each.backend == each.client
    there = [_end(each.vip, each.client_port) if itself else client, backend]
    found = f"flows[{int.from_bytes(each.place, 'little')}]"
    chosen = turns.get((socket.inet_ntoa(each.vip), socket.inet_ntoa(each.backend)))
    if new and chosen:
        yield Decisive(node, chosen, [client, vip], there, protocol, "first")
    text = f"ends[{protocol} {client} > {vip}] = {found}, whose backend is {socket.inet_ntoa(each.backend)}"
    yield Decisive(node, text, [client, vip], there, protocol, "later" if new else "")
    # A backend that answers itself sends to the VIP, from which its question came.
    key = f"{client} > {vip if itself else backend}"
    text = f"ends[{protocol} {key}] = {found}, whose VIP is {socket.inet_ntoa(each.vip)}"
    yield Decisive(node, text, there[::-1], [vip, client], protocol)


def _pings(node: str, maps: Mapping[str, Map], turns: Chosen) -> Iterator[Decisive]:
    for vip in {vip for vip, _ in turns}:
        total, _, _ = _SERVICE.unpack(maps["services"].get([socket.inet_aton(vip)])[0][1])
        yield Decisive(node, f"services[{vip}] = {_told(total)}", ["", vip], [vip, ""], "icmp")


def _fragments(node: str, fragments: Map, addresses: Collection[str]) -> Iterator[Decisive]:
    for key, value in fragments.items():
        *before, _, number = _FRAGMENT.unpack(key)
        *after, _ = _REWRITE.unpack(value)
        ends, made = [list(map(socket.inet_ntoa, pair)) for pair in (before, after)]
        if {*ends} <= {*addresses}:
            protocol = _PROTOCOLS.get(number, str(number))
            text = f"fragments[{protocol} {' > '.join(ends)}, its datagram] = {' > '.join(made)}"
            yield Decisive(node, text, ends, made, protocol, "fragment")


def _of_sockets(node: str, vips: Map, turns: Chosen, ends: Collection[str]) -> Iterator[Decisive]:
    """Yield what explains where a socket was sent, and by which VIP it knows its peer."""
    for key, value in vips.items():
        address, port = _PEER.unpack(key)
        backend, vip = _end(address, port), _end(value, port)
        if vip not in ends:
            continue
        if chosen := turns.get((socket.inet_ntoa(value), socket.inet_ntoa(address))):
            yield Decisive(node, chosen, ["", vip], ["", backend])
        yield Decisive(node, f"vips[its socket, {backend}] = {socket.inet_ntoa(value)}", [backend, ""], [vip, ""])


def _told(turns: int) -> str:
    return f"{turns} turn{'s' if turns != 1 else ''}"


def _end(address: bytes, port: bytes) -> str:
    return f"{socket.inet_ntoa(address)}:{int.from_bytes(port, 'big')}"
