"""Refusals of single kernel operations, chosen by number, and the state of a lab's kernel as text.

A netlink request is changed into one that the kernel does not know. So the kernel itself refuses it, and carries out
the other requests of the same write. Programs, rulesets, settings and system calls are refused before they begin.
"""

from __future__ import annotations

import errno
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from dataplanes import classifiers
from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import bpf, iptables, ipvs, netlink, nft, process, sysctl
from dataplanes.kernel.netlink import Netlink, NetlinkError, Request, attributes
from scenarios import walk
from scenarios.lab import Lab

_IFNAME, _MTU, _IFF_UP = 3, 4, 1  # IFLA_*
_LOCAL, _DST, _LLADDR, _PERMANENT = 2, 1, 2, 0x80  # IFA_LOCAL, RTA_DST and NDA_DST, NDA_LLADDR, NUD_PERMANENT


class Refusals:
    """A counter of operations, which refuses one of them."""

    def __init__(self) -> None:
        self.asked = 0
        self.refused = False
        self._number = -1

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Refuse the operation with this number within the block."""
        self.asked, self.refused, self._number = 0, False, number
        with pytest.MonkeyPatch.context() as patch:
            self._patch(patch)
            yield

    def now(self) -> bool:
        """Count an operation. Return True if it is the one to refuse."""
        found, self.asked = self.asked == self._number, self.asked + 1
        self.refused = self.refused or found
        return found

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        encode, call = Netlink._encode, bpf._call

        def encode_unknown(wire: Netlink, request: Request, number: int) -> bytes:
            return encode(wire, _unknown(request) if self.now() else request, number)

        def call_refused(command: int, attr: Any) -> int:
            return -errno.EPERM if self.now() else call(command, attr)

        patch.setattr(Netlink, "_encode", encode_unknown)
        patch.setattr(bpf, "_call", call_refused)
        for where, name in (
            (process, "run"),
            (sysctl, "_write"),
            (nft.Nftables, "run"),
            (iptables.Tables, "info"),
            (ipvs.Ipvs, "count"),
            (netlink.Netlink, "index"),
        ):
            patch.setattr(where, name, self._or_refused(getattr(where, name), name))

    def _or_refused(self, act: Callable[..., Any], name: str) -> Callable[..., Any]:
        def either(*args: Any, **kwargs: Any) -> Any:
            if self.now():
                if name == "index":
                    raise NetlinkError(errno.EIO, 0, "here", "refused by the test")
                raise KernelRefused(f"{name} refused", where="here", why="by the test")
            return act(*args, **kwargs)

        return either


def _unknown(request: Request) -> Request:
    """Return a request of the same subsystem that the kernel does not know."""
    if request.kind >= 0x100:  # nfnetlink: subsystem and message; generic families have lower numbers
        return Request(request.kind | 0xFF, request.flags, request.body)
    if request.kind >= 0x10 and len(request.body) >= 4 and request.body[1:4] == b"\1\0\0":  # struct genlmsghdr
        return Request(request.kind, request.flags, b"\xff" + request.body[1:])
    return Request(0xFF, request.flags, request.body)  # beyond RTM_MAX


def facts(lab: Lab) -> dict[str, Counter[object]]:
    """Return the state that the kernel tells at once.

    It is the walk without programs, which take seconds under emulation.
    """
    found: dict[str, Counter[object]] = {}
    for _, _, name in lab.namespaces():
        found |= {f"{name}: {what}": Counter(seen) for what, seen in _facts(name)}
    found["footprint"] = Counter(_footprint(lab))
    return found


def _facts(name: str) -> Iterator[tuple[str, Iterable[object]]]:
    wire = Netlink(name, netlink.ROUTE)
    links = {_u32(body, 4): (attributes(body[16:]), _u32(body, 8) & _IFF_UP) for _, body in wire.dump(18, bytes(16))}
    names = {index: _plain(_name(found[_IFNAME])) for index, (found, _) in links.items()}
    yield "links", [(names[index], up, found[_MTU]) for index, (found, up) in links.items()]
    addresses = [(body[:4], names[_u32(body, 4)], attributes(body[8:])) for _, body in wire.dump(22, bytes(8))]
    yield "addresses", [(head, name, found.get(_LOCAL)) for head, name, found in addresses]
    yield "routes", [(body[:12], attributes(body[12:]).get(_DST)) for _, body in wire.dump(26, bytes(12))]
    answers = [each for family in (2, 7) for _, each in wire.dump(30, bytes((family, *[0] * 11)))]
    yield (
        "neighbours",
        [
            (names[_u32(body, 4)], body[8:12], attributes(body[12:]).get(_DST), attributes(body[12:])[_LLADDR])
            for body in answers
            if body[8] & _PERMANENT and names[_u32(body, 4)] != "veth"
        ],
    )
    yield "qdiscs", [(names[_u32(body, 4)], attributes(body[20:])[1]) for _, body in wire.dump(38, bytes(20))]
    wire.close()
    yield "tcx", [(_plain(interface), way, program) for interface, way, _, program in classifiers.links(name)]
    tables = iptables.Tables(name)
    infos = [tables.info(table) for table in tables.names()]
    yield "iptables", [each for each in infos if iptables.entries(each) > iptables.EMPTY[_name(each[:32])]]
    tables.close()
    if nft.tables(name):
        reader = nft.Nftables(name)
        reader._handle.set_stateless_output(True)
        yield "nft", reader._handle.cmd("list ruleset")[1].splitlines()
        reader.close()
    with suppress(Prerequisite):
        table = ipvs.Ipvs(name)
        for each in table.services():
            yield f"ipvs {each.key}", [(d.address, d.forward, d.weight) for d in each.destinations]
        table.close()
    yield "sysctls", walk._sysctls(name)


def held(lab: Lab) -> dict[str, list[str]]:
    """Return the walk through all namespaces and the plane's footprint, without what traffic and time leave."""
    found = {}
    for namespace in walk.walk(lab)["namespaces"]:
        for section in namespace["sections"]:
            lines = [_plain(line) for _, line in section["lines"]]
            found[f"{namespace['name']}: {section['command']}"] = sorted(filter(None, lines))
    found["footprint"] = sorted(_footprint(lab))
    return {where: lines for where, lines in found.items() if lines}


def _footprint(lab: Lab) -> Iterator[str]:
    assert lab.plane
    for each in lab.plane.footprint():
        if each.kind.split()[-1] not in ("connections", "entries", "flows", "fragments", "vips"):
            yield f"{each.netns} {each.kind} {each.objects}"


def _u32(body: bytes, offset: int) -> int:
    return int.from_bytes(body[offset : offset + 4], sys.byteorder)


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _plain(line: str) -> str:
    """Remove the numbers of links, the MACs that the kernel makes up, the states of neighbours, and counters."""
    line = re.sub(r"^\d+: |@if\d+|master \d+|link-netns \S+|packets \d+ bytes \d+", "", line)
    line = re.sub(r"veth\d+", "veth", re.sub(r" state \w+|,LOWER_UP|NO-CARRIER,", "", line))
    if re.search(r"REACHABLE|STALE|DELAY|PROBE|FAILED|INCOMPLETE|NOARP", line):
        return ""
    if "link/ether" in line or "dev veth" in line:
        return ""
    if "->" in line:
        return " ".join(line.split()[:4])
    return line
