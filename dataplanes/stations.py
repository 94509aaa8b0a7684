"""The map in which the programs of a node find the containers of their network (dataplanes/bpf/stations.h)."""

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
    """A node's map, and the index of its device to the other nodes, or 0 if it has none."""

    map: Map
    wire: int


class Stations:
    """The containers of one network. A container that is not among them is still reached, over the bridge."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._ports: dict[Endpoint, int] = {}  # container -> the index of its bridge port

    def __contains__(self, node: str) -> bool:
        return node in self._nodes

    def open(self, node: str, into: Map, wire: int) -> None:
        """Add a node, and tell its map of the containers that the network has."""
        self._nodes[node] = _Node(into, wire)
        into.update([each for there in self._ports for each in self._entry(node, there)])

    def close(self, node: str) -> None:
        """Remove a node. Idempotent."""
        self._nodes.pop(node, None)

    def add(self, endpoint: Endpoint, port: int) -> None:
        """Add a container to the maps of all nodes, or of none. `port` is the index of its bridge port.

        Repeated, it restores the elements.
        """
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
        """Remove a container from the maps of all nodes, or of none."""
        if endpoint not in self._ports:
            return
        with Undo() as undo:
            for name, node in self._nodes.items():
                undo(partial(node.map.update, self._entry(name, endpoint)))
                node.map.delete([_key(endpoint)])
        del self._ports[endpoint]

    def _entry(self, name: str, endpoint: Endpoint) -> list[tuple[bytes, bytes]]:
        """Return a container's element for a node's map, or nothing if no device leads to the container."""
        remote = endpoint.node != name
        device = self._nodes[name].wire if remote else self._ports[endpoint]
        mac = bytes.fromhex(endpoint.mac.replace(":", ""))
        return [(_key(endpoint), _STATION.pack(device, remote, mac))] if device else []


def _key(endpoint: Endpoint) -> bytes:
    return socket.inet_aton(endpoint.address)
