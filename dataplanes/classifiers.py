"""BPF programs on the interfaces of a namespace: by TCX where the kernel has it (since 6.6), else on a clsact qdisc.

The kernel calls a TCX program at once. A classifier is called from the qdisc's chain of filters, which costs
instructions for each packet (net/core/dev.c, tcx_run and tc_run; net/sched/cls_api.c, tcf_classify).
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
        """Attach all of the programs or none. Repeated, it attaches those that were lost."""

    @abstractmethod
    def detach(self, rtnl: Rtnl, interface: str) -> None:
        """Undo `attach`, even if the interface does not exist any more."""

    @abstractmethod
    def restored(self) -> None:
        """Take note that every program was attached again."""

    @abstractmethod
    def intact(self) -> bool:
        """Return False if others may have detached a program. It must cost next to nothing."""

    @abstractmethod
    def close(self) -> None:
        """Release what would outlive the namespace. Idempotent."""


def classifiers(name: str) -> Classifiers:
    """Return the classifiers of a namespace, which has none yet."""
    return Tcx(name) if _has_tcx() else Clsact(name)


@functools.cache
def _has_tcx() -> bool:
    return bpf.has_tcx()


class Tcx(Classifiers):
    """Programs that are attached by links. A link is removed with its descriptor. Others may attach programs, too."""

    def __init__(self, name: str) -> None:
        self._netns = name
        self._links: dict[str, dict[str, int]] = {}  # interface -> direction -> link
        self._touched = False  # True if a link was found lost, and not every interface was restored since then

    def attach(self, rtnl: Rtnl, interface: str, programs: Programs) -> None:
        links, index = self._links.get(interface, {}), rtnl.index(interface)
        lost = [way for way in programs if way not in links or not bpf.attached(links[way])]
        self._touched = self._touched or any(way in links for way in lost)
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
        self._touched = False

    def intact(self) -> bool:
        # One interface stands for all: asking each would cost a system call per container and change.
        one = list(self._links.values())[:1]
        return not self._touched and all(bpf.attached(fd) for links in one for fd in links.values())

    def close(self) -> None:
        for links in self._links.values():
            _close(links)
        self._links.clear()


class Clsact(Classifiers):
    """Programs on a qdisc that only carries them (tc-bpf(8)). An interface that has such a qdisc is refused."""

    def __init__(self, name: str) -> None:
        self._watch = netlink.Watch(name, netlink.ROUTE, _TC_GROUP)
        self._there: set[str] = set()
        self._touched = False  # True if somebody has changed qdiscs or filters there since they were restored

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
        """Ignore the changes that are heard within the block, because we make them. Changes from before it count."""
        self._touched = self._touched or self._watch.heard()
        yield
        self._watch.heard()


def links(name: str) -> list[tuple[str, str, int, str]]:
    """Return the TCX programs of a namespace, each as its interface, direction, link ID and name."""
    with netns.inside(name):
        return [
            (interface, way, link, program)
            for index, interface in socket.if_nameindex()
            for way in bpf.TCX
            for link, program in bpf.on_interface(index, way)
        ]


def detach_all(name: str) -> list[str]:
    """Detach every program from a namespace's interfaces, as root may. Return how each was attached: "tcx" or "tc"."""
    found = ["tcx" for _, _, link, _ in links(name) if bpf.detach(link)]
    with Rtnl(name) as rtnl:
        for interface in [each.name for each in rtnl.links()]:
            for removal in (rtnl.clsact_del, rtnl.ingress_del):
                # Refused: it has none, or is gone: the kernel removes a deleted namespace's veths later (cleanup_net).
                with suppress(netlink.NetlinkError):
                    rtnl.send([removal(interface)])
                    found.append("tc")
    return found


@contextmanager
def suppress_gone() -> Iterator[None]:
    """Ignore that the interface does not exist any more: nothing is attached to it."""
    try:
        yield
    except netlink.NetlinkError as error:
        if error.errno != errno.ENODEV:
            raise


def _close(links: dict[str, int]) -> None:
    for fd in links.values():
        os.close(fd)
