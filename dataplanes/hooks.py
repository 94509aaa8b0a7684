"""The attachments of the eBPF programs of one network on one node."""

from __future__ import annotations

import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

from dataplanes.classifiers import classifiers, suppress_gone
from dataplanes.ebpf_object import PROGRAMS, Loaded
from dataplanes.elements import Hooked
from dataplanes.errors import KernelRefused
from dataplanes.kernel import bpf
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint
from dataplanes.stations import Stations

_CALLS = {
    **{f"on_{call}{version}": f"inet{version}_{call}" for call in ("connect", "getpeername") for version in (4, 6)},
    **{f"on_{call}{version}": f"udp{version}_{call}" for call in ("sendmsg", "recvmsg") for version in (4, 6)},
}
"""Program -> the hook of the cgroup, by the kernel's name (enum cgroup_bpf_attach_type)."""


class Hooks(ABC):
    """The hooks of containers, one set for each container."""

    @abstractmethod
    def attach(self, endpoint: Endpoint) -> None:
        """Attach the programs to a container's hooks, all or none. Repeated, it restores those that were lost."""

    @abstractmethod
    def detach(self, endpoint: Endpoint) -> None:
        """Undo `attach`."""

    @abstractmethod
    def restore(self) -> None:
        """Attach every program that is not attached any more."""

    @abstractmethod
    def intact(self) -> bool:
        """Return False if others may have detached a program (see `Director.intact`)."""

    @abstractmethod
    def count(self, endpoint: Endpoint) -> int:
        """Return how many programs are attached for a container."""

    def shared(self) -> int:
        """Return how many programs are attached for all containers of the node."""
        return 0

    def attached(self) -> Iterator[Hooked]:
        """Yield each program with the place at which packets or calls meet it."""
        yield from ()

    @abstractmethod
    def close(self) -> None:
        """Release what would outlive the namespaces. Idempotent."""


class SocketHooks(Hooks):
    """Links on the cgroup of the container's processes. A link is removed with its descriptor."""

    def __init__(self, loaded: Loaded, netns: str) -> None:
        self._programs = loaded.programs
        self._links: dict[Endpoint, dict[str, int]] = {}  # container -> program -> link

    def attach(self, endpoint: Endpoint) -> None:
        if endpoint.cgroup is None:
            raise KernelRefused("no cgroup to attach to", where=endpoint.netns, why="the container has none of its own")
        links = self._links.get(endpoint, {})
        lost = [name for name in self._programs if name not in links or not bpf.attached(links[name])]
        made: dict[str, int] = {}
        with Undo() as undo:
            undo(lambda: _close(made))
            for name in lost:
                made[name] = bpf.link_cgroup(self._programs[name], endpoint.cgroup, PROGRAMS["socket"][name][1])
        _close({name: links[name] for name in made if name in links})
        self._links[endpoint] = links | made

    def detach(self, endpoint: Endpoint) -> None:
        _close(self._links.pop(endpoint, {}))

    def restore(self) -> None:
        for endpoint in self._links:
            self.attach(endpoint)

    def intact(self) -> bool:
        # The first container stands for all: asking for each would cost a system call per container and change.
        return all(bpf.attached(fd) for links in list(self._links.values())[:1] for fd in links.values())

    def count(self, endpoint: Endpoint) -> int:
        return len(self._links.get(endpoint, {}))

    def attached(self) -> Iterator[Hooked]:
        for endpoint, links in self._links.items():
            yield from (Hooked(endpoint.netns, "", _CALLS[name], name) for name in links)

    def close(self) -> None:
        for links in self._links.values():
            _close(links)
        self._links.clear()


class TcHooks(Hooks):
    """Classifiers on the node's ends of the containers' veths."""

    _ways: Mapping[str, str] = {"ingress": "from_container", "egress": "to_container"}

    def __init__(self, loaded: Loaded, netns: str) -> None:
        self._loaded = loaded
        self._classifiers = classifiers(netns)
        self._there: set[Endpoint] = set()

    def attach(self, endpoint: Endpoint) -> None:
        port, there = endpoint.bridge_port, endpoint in self._there
        with Rtnl(endpoint.overlay_netns) as rtnl, Undo() as undo:
            if not there:
                undo(lambda: self._forget(endpoint, rtnl))
            self._prepare(endpoint, rtnl)
            if not there:
                undo(lambda: rtnl.send([rtnl.port_fdb_del(port, endpoint.mac)], ignore=(errno.ENOENT,)))
            # A container's packets to VIPs do not enter the bridge by its port, so the bridge would never learn where
            # the container is. It would hand the answers to every port, and so to the program of every container.
            rtnl.send([rtnl.port_fdb_set(port, endpoint.mac)])
            self._classifiers.attach(rtnl, port, self._programs(self._ways))
        self._there.add(endpoint)

    def _prepare(self, endpoint: Endpoint, rtnl: Rtnl) -> None:
        """Tell the programs what they need to know before they are attached. Repeated, it restores that."""
        self._tell_bridge(rtnl.master(endpoint.bridge_port))

    def _tell_bridge(self, index: int) -> None:
        self._loaded.maps["bridge"].update([(struct.pack("=I", 0), struct.pack("=I", index))])

    def _programs(self, ways: Mapping[str, str]) -> dict[str, tuple[str, int]]:
        return {way: (name, self._loaded.programs[name]) for way, name in ways.items()}

    def detach(self, endpoint: Endpoint) -> None:
        if endpoint not in self._there:
            return
        port = endpoint.bridge_port
        with Rtnl(endpoint.overlay_netns) as rtnl, Undo() as undo:
            with suppress_gone():
                rtnl.send([rtnl.port_fdb_del(port, endpoint.mac)], ignore=(errno.ENOENT, errno.EINVAL))
                undo(lambda: rtnl.send([rtnl.port_fdb_set(port, endpoint.mac)]))
            undo(lambda: self._prepare(endpoint, rtnl))
            self._forget(endpoint, rtnl)
            self._classifiers.detach(rtnl, port)
        self._there.discard(endpoint)

    def _forget(self, endpoint: Endpoint, rtnl: Rtnl) -> None:
        """Undo `_prepare`, even if it was refused half-way."""

    def restore(self) -> None:
        for endpoint in tuple(self._there):
            self.attach(endpoint)
        self._classifiers.restored()

    def intact(self) -> bool:
        return self._classifiers.intact()

    def count(self, endpoint: Endpoint) -> int:
        return len(self._ways) * (endpoint in self._there)

    def attached(self) -> Iterator[Hooked]:
        for each in self._there:
            for way, name in self._ways.items():
                yield Hooked(each.overlay_netns, each.bridge_port, f"tc {way}", name)

    def close(self) -> None:
        self._classifiers.close()


class RedirectHooks(TcHooks):
    """Programs at what containers send, and at what comes in by the vxlan device from other nodes."""

    _ways: Mapping[str, str] = {"ingress": "from_container"}

    def __init__(self, loaded: Loaded, netns: str, stations: Stations) -> None:
        super().__init__(loaded, netns)
        self._stations = stations
        self._wire = ""  # the name of the vxlan device, or "" if there is none

    def _prepare(self, endpoint: Endpoint, rtnl: Rtnl) -> None:
        bridge = rtnl.master(endpoint.bridge_port)
        if "bridge" in self._loaded.maps:
            self._tell_bridge(bridge)
        if endpoint.node not in self._stations:
            self._wire = next(iter(rtnl.ports(bridge, "vxlan")), "")
            wire = rtnl.index(self._wire) if self._wire else 0
            self._stations.open(endpoint.node, self._loaded.maps["stations"], wire)
        if self._wire:
            self._classifiers.attach(rtnl, self._wire, self._programs({"ingress": "from_wire"}))
        self._stations.add(endpoint, rtnl.index(endpoint.bridge_port))

    def shared(self) -> int:
        return int(bool(self._wire and self._there))

    def attached(self) -> Iterator[Hooked]:
        yield from super().attached()
        for overlay in {each.overlay_netns for each in self._there if self._wire}:
            yield Hooked(overlay, self._wire, "tc ingress", "from_wire")

    def _forget(self, endpoint: Endpoint, rtnl: Rtnl) -> None:
        self._stations.drop(endpoint)
        if self._there <= {endpoint}:
            if self._wire:
                self._classifiers.detach(rtnl, self._wire)
            self._stations.close(endpoint.node)


def _close(links: dict[str, int]) -> None:
    for fd in links.values():
        os.close(fd)
