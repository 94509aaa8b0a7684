"""The attachments of the eBPF programs of one network on one node."""

from __future__ import annotations

import errno
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from dataplanes.ebpf_object import PROGRAMS, Loaded
from dataplanes.errors import KernelRefused
from dataplanes.kernel import bpf, netlink
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint

_TC_GROUP = 4  # RTNLGRP_TC


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

    def close(self) -> None:
        for links in self._links.values():
            _close(links)
        self._links.clear()


class TcHooks(Hooks):
    """Classifiers on the node's ends of the containers' veths."""

    def __init__(self, loaded: Loaded, netns: str) -> None:
        self._programs = loaded.programs
        self._bridge = loaded.maps["bridge"]
        self._watch = netlink.Watch(netns, netlink.ROUTE, _TC_GROUP)
        self._there: set[Endpoint] = set()
        self._touched = False  # True if somebody has changed hooks or filters there since they were restored

    def attach(self, endpoint: Endpoint) -> None:
        with self._ours():
            self._attach(endpoint)
        self._there.add(endpoint)

    def _attach(self, endpoint: Endpoint) -> None:
        port, there = endpoint.bridge_port, endpoint in self._there
        with Rtnl(endpoint.overlay_netns) as rtnl, Undo() as undo:
            self._bridge.update([(struct.pack("=I", 0), struct.pack("=I", rtnl.master(port)))])
            rtnl.send([rtnl.clsact_add(port)], ignore=(errno.EEXIST,) if there else ())
            if not there:
                undo(lambda: rtnl.send([rtnl.clsact_del(port)]))
                undo(lambda: rtnl.send([rtnl.port_fdb_del(port, endpoint.mac)], ignore=(errno.ENOENT,)))
            # A container's packets to VIPs do not enter the bridge by its port, so the bridge would never learn where
            # the container is. It would hand the answers to every port, and so to the program of every container.
            rtnl.send([rtnl.port_fdb_set(port, endpoint.mac)])
            rtnl.send(
                [
                    rtnl.classifier_set(port, "ingress", self._programs["from_container"], "from_container"),
                    rtnl.classifier_set(port, "egress", self._programs["to_container"], "to_container"),
                ]
            )

    def detach(self, endpoint: Endpoint) -> None:
        if endpoint not in self._there:
            return
        gone = (errno.ENOENT, errno.EINVAL)  # the qdisc is gone
        try:
            with self._ours(), Rtnl(endpoint.overlay_netns) as rtnl, Undo() as undo:
                rtnl.send([rtnl.port_fdb_del(endpoint.bridge_port, endpoint.mac)], ignore=gone)
                undo(lambda: rtnl.send([rtnl.port_fdb_set(endpoint.bridge_port, endpoint.mac)]))
                rtnl.send([rtnl.clsact_del(endpoint.bridge_port)], ignore=gone)
        except netlink.NetlinkError as error:
            if error.errno != errno.ENODEV:  # the port is gone
                raise
        self._there.discard(endpoint)

    def restore(self) -> None:
        with self._ours():
            for endpoint in self._there:
                self._attach(endpoint)
        self._touched = False

    def intact(self) -> bool:
        self._touched = self._touched or self._watch.heard()
        return not self._touched

    def count(self, endpoint: Endpoint) -> int:
        return 2 * (endpoint in self._there)

    def close(self) -> None:
        self._watch.close()

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Ignore the changes that are heard within the block, because we make them. Changes from before it count."""
        self._touched = self._touched or self._watch.heard()
        yield
        self._watch.heard()


def _close(links: dict[str, int]) -> None:
    for fd in links.values():
        os.close(fd)
