"""BPF programs on the interfaces of a namespace: by TCX where the kernel has it (since 6.6), else on a clsact qdisc.

A TCX program is called at once. To a classifier a packet comes by way of the qdisc's chain of filters
(net/core/dev.c, tcx_run and tc_run; net/sched/cls_api.c, tcf_classify), which costs instructions with each packet.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from dataplanes.kernel import bpf, netlink, netns
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.kernel.undo import Undo

_TC_GROUP = 4  # RTNLGRP_TC

Programs = Mapping[str, tuple[str, int]]
"""Direction, ingress or egress -> a program's name and descriptor."""


class Classifiers(ABC):
    """The programs on the interfaces of one namespace."""

    @abstractmethod
    def attach(self, rtnl: Rtnl, interface: str, programs: Programs) -> None:
        """Attach all of them or none; done again, it attaches those that were lost."""

    @abstractmethod
    def detach(self, rtnl: Rtnl, interface: str) -> None:
        """Undo `attach`, also where the interface is gone."""

    @abstractmethod
    def restored(self) -> None:
        """All has been attached again."""

    @abstractmethod
    def intact(self) -> bool:
        """False if others may have detached something. It must cost next to nothing."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what would outlive the namespace. Idempotent."""


def classifiers(name: str) -> Classifiers:
    """Those of a namespace."""
    return Tcx(name) if _has_tcx() else Clsact(name)


@functools.cache
def _has_tcx() -> bool:
    return bpf.has_tcx()


class Tcx(Classifiers):
    """By links: they are gone with their descriptors, and nobody else's programs are in the way."""

    def __init__(self, name: str) -> None:
        self._netns = name
        self._links: dict[str, dict[str, int]] = {}  # interface -> direction -> link

    def attach(self, rtnl: Rtnl, interface: str, programs: Programs) -> None:
        links, index = self._links.get(interface, {}), rtnl.index(interface)
        lost = [way for way in programs if way not in links or not bpf.attached(links[way])]
        made: dict[str, int] = {}
        with netns.inside(self._netns), Undo() as undo:
            undo(lambda: _close(made))
            for way in lost:
                made[way] = bpf.link_interface(programs[way][1], index, way)
        _close({way: links[way] for way in made if way in links})
        self._links[interface] = links | made

    def detach(self, rtnl: Rtnl, interface: str) -> None:
        _close(self._links.pop(interface, {}))

    def restored(self) -> None:
        pass

    def intact(self) -> bool:
        # One interface stands for all: each would cost a system call per container and change.
        return all(bpf.attached(fd) for links in list(self._links.values())[:1] for fd in links.values())

    def close(self) -> None:
        for links in self._links.values():
            _close(links)
        self._links.clear()


class Clsact(Classifiers):
    """On a qdisc that does nothing but carry them (tc-bpf(8)). An interface that has one is refused."""

    def __init__(self, name: str) -> None:
        self._watch = netlink.Watch(name, netlink.ROUTE, _TC_GROUP)
        self._there: set[str] = set()
        self._touched = False  # somebody has changed qdiscs or filters there since they were restored

    def attach(self, rtnl: Rtnl, interface: str, programs: Programs) -> None:
        there = interface in self._there
        with self._ours(), Undo() as undo:
            rtnl.send([rtnl.clsact_add(interface)], ignore=(errno.EEXIST,) if there else ())
            if not there:
                undo(lambda: rtnl.send([rtnl.clsact_del(interface)]))
            rtnl.send(rtnl.classifier_set(interface, way, fd, name) for way, (name, fd) in programs.items())
        self._there.add(interface)

    def detach(self, rtnl: Rtnl, interface: str) -> None:
        if interface not in self._there:
            return
        with self._ours(), suppress_gone():
            rtnl.send([rtnl.clsact_del(interface)], ignore=(errno.ENOENT, errno.EINVAL))  # the qdisc is gone
        self._there.discard(interface)

    def restored(self) -> None:
        self._touched = False

    def intact(self) -> bool:
        self._touched = self._touched or self._watch.heard()
        return not self._touched

    def close(self) -> None:
        self._watch.close()

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """What is heard within is what we do; what was before is not."""
        self._touched = self._touched or self._watch.heard()
        yield
        self._watch.heard()


def links(name: str) -> list[tuple[str, str, int, str]]:
    """The programs on a namespace's interfaces by TCX: interface, direction, the link's ID, the program's name."""
    with netns.inside(name):
        return [
            (interface, way, link, program)
            for index, interface in socket.if_nameindex()
            for way in bpf.TCX
            for link, program in bpf.on_interface(index, way)
        ]


def detach_all(name: str) -> list[str]:
    """Detach every program from a namespace's interfaces, whoever has attached it; tell by what each was."""
    found = ["tcx" for _, _, link, _ in links(name) if bpf.detach(link)]
    with Rtnl(name) as rtnl:
        for interface in [each.get_attr("IFLA_IFNAME") for each in rtnl.links()]:
            for qdisc in (rtnl.clsact_del(interface), rtnl.ingress_del(interface)):
                with suppress(netlink.NetlinkError):  # no such one there
                    rtnl.send([qdisc])
                    found.append("tc")
    return found


@contextmanager
def suppress_gone() -> Iterator[None]:
    """An interface that is gone has nothing on it."""
    try:
        yield
    except netlink.NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise


def _close(links: dict[str, int]) -> None:
    for fd in links.values():
        os.close(fd)
