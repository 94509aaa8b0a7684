"""Where the containers of a network are, as the programs on each of its nodes are told (dataplanes/bpf/stations.h)."""

from __future__ import annotations

import socket
import struct
from functools import partial

from msgspec import Struct

from dataplanes.kernel.bpf import Map
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint

_STATION = struct.Struct("=IH6s")


class _Node(Struct, frozen=True):
    """The map of a node, and the index of the device to the other nodes; 0 if there is none."""

    map: Map
    wire: int


class Stations:
    """One network's. A container that is not among them is still reached, over the bridge."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._ports: dict[Endpoint, int] = {}  # container -> the index of its bridge port

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def open(self, node: str, into: Map, wire: int) -> None:
        """The network comes to a node: its map is told of the containers that there are."""
        self._nodes[node] = _Node(into, wire)
        into.update([each for there in self._ports for each in self._entry(node, there)])

    def close(self, node: str) -> None:
        """The network leaves a node. Idempotent."""
        self._nodes.pop(node, None)

    def add(self, endpoint: Endpoint, port: int) -> None:
        """A container comes; `port` is the index of its bridge port. All nodes are told, or none; done again, they are
        told again."""
        fresh = endpoint not in self._ports
        with Undo() as undo:
            if fresh:
                undo(partial(self._ports.pop, endpoint))
            self._ports[endpoint] = port
            for name, node in self._nodes.items():
                if fresh:
                    undo(partial(node.map.delete, [_key(endpoint)]))
                node.map.update(self._entry(name, endpoint))

    def drop(self, endpoint: Endpoint) -> None:
        """A container leaves."""
        if endpoint not in self._ports:
            return
        with Undo() as undo:
            for name, node in self._nodes.items():
                undo(partial(node.map.update, self._entry(name, endpoint)))
                node.map.delete([_key(endpoint)])
        del self._ports[endpoint]

    def _entry(self, name: str, endpoint: Endpoint) -> list[tuple[bytes, bytes]]:
        """A container's element on a node; none where no device leads to it."""
        remote = endpoint.node != name
        device = self._nodes[name].wire if remote else self._ports[endpoint]
        mac = bytes.fromhex(endpoint.mac.replace(":", ""))
        return [(_key(endpoint), _STATION.pack(device, remote, mac))] if device else []


def _key(endpoint: Endpoint) -> bytes:
    return socket.inet_aton(endpoint.address)
