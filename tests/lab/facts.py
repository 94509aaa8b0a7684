"""What a lab's kernel holds, as often as a test asks.

A walk by programs takes seconds under emulation. Here the sockets stay open, and what the kernel has not announced as
changed is not read again. The kernel announces addresses, routes, neighbours and queues, and it counts the transactions
of nftables. Everything else, settings included, is read each time.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress

from dataplanes.errors import Prerequisite
from dataplanes.kernel import bpf, iptables, netlink, nft
from dataplanes.kernel.ipvs import Ipvs
from dataplanes.kernel.netlink import Netlink, NetlinkError, Watch, attribute, attributes
from dataplanes.kernel.netns import inside
from scenarios import walk
from scenarios.lab import Lab

_IFNAME, _MTU, _AF_SPEC, _IFF_UP = 3, 4, 26, 1  # IFLA_*
_INET, _CONF = 2, 1  # AF_INET, IFLA_INET_CONF: every setting of net.ipv4.conf for the interface
_LOCAL, _DST, _LLADDR, _PERMANENT = 2, 1, 2, 0x80  # IFA_LOCAL, RTA_DST and NDA_DST, NDA_LLADDR, NUD_PERMANENT
_LIST_SETS = 6 << 8 | 7  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST
_ANNOUNCED = (1, 3, 4, 5, 7)  # RTNLGRP_LINK, _NEIGH, _TC, _IPV4_IFADDR, _IPV4_ROUTE

Seen = dict[str, Counter[object]]


def facts(lab: Lab) -> Seen:
    """Return what the lab's kernel holds, for a single look."""
    with closing(Facts(lab)) as seen:
        return seen.now()


class Facts:
    """An observer that looks at a lab again and again."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        # An open socket keeps its namespace alive. So sockets stay open only in namespaces that no plane removes.
        self._watched = {name: _Namespace(name) for kind, _, name in lab.namespaces() if kind != "lb"}

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        for each in self._watched.values():
            each.close()

    def now(self) -> Seen:
        """Return what there is by namespace and kind, and the plane's footprint.

        What traffic and time leave is not in it.
        """
        found: Seen = {"footprint": Counter(self._footprint())}
        for _, _, name in self._lab.namespaces():
            with ExitStack() as stack:
                looked = self._watched.get(name) or stack.enter_context(closing(_Namespace(name)))
                found |= {f"{name}: {what}": seen for what, seen in looked.now()}
        return found

    def _footprint(self) -> Iterator[str]:
        assert self._lab.plane
        for each in self._lab.plane.footprint():
            if each.kind.split()[-1] not in ("connections", "entries", "flows", "fragments", "vips"):
                yield f"{each.netns} {each.kind} {each.objects}"


class _Namespace:
    """An observer of one namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()
        self._route = self._stack.enter_context(closing(Netlink(name, netlink.ROUTE)))
        self._filter = self._stack.enter_context(closing(Netlink(name, netlink.NETFILTER)))
        self._tables = self._stack.enter_context(closing(iptables.Tables(name)))
        self._changes = self._stack.enter_context(closing(Watch(name, netlink.ROUTE, *_ANNOUNCED)))
        self._nft: nft.Nftables | None = None
        self._ipvs: Ipvs | None = None
        with suppress(Prerequisite):
            self._ipvs = self._stack.enter_context(closing(Ipvs(name)))
        self._generation = -1
        self._ruleset: Counter[object] = Counter()
        self._network: list[tuple[str, Counter[object]]] = []
        self._files: dict[str, int] = {}  # path -> the open file, which stays one of its namespace

    def close(self) -> None:
        """Close the sockets and files. Idempotent."""
        self._stack.close()

    def now(self) -> Iterator[tuple[str, Counter[object]]]:
        """Yield each kind of object, and the objects."""
        links = {_u32(body, 4): (attributes(body[16:]), _u32(body, 8) & _IFF_UP) for _, body in self._dump(18, 16)}
        names = {index: _plain(_name(found[_IFNAME])) for index, (found, _) in links.items()}
        yield "links", Counter((names[n], up, found[_MTU], _settings(found)) for n, (found, up) in links.items())
        if self._changes.heard() or not self._network:
            self._network = [(what, Counter(seen)) for what, seen in self._announced(names)]
        yield from self._network
        with inside(self.name):  # once: to enter a namespace costs as much as to read what is there
            attached = [(names[n], way, each) for n in names for way in bpf.TCX for _, each in bpf.on_interface(n, way)]
            tables = self._read("/proc/thread-self/net/ip_tables_names").decode().split()
            settings = [(key, self._read(f"/proc/sys/{key.replace('.', '/')}")) for key in walk._SYSCTLS]
        yield "tcx", Counter(attached)
        infos = [self._tables.info(table) for table in tables]
        yield "iptables", Counter(each for each in infos if iptables.entries(each) > iptables.EMPTY[_name(each[:32])])
        yield "nft", self._rules()
        yield "ipsets", Counter(self._members())
        for each in self._ipvs.services() if self._ipvs else ():
            yield f"ipvs {each.key}", Counter((d.address, d.forward, d.weight) for d in each.destinations)
        yield "sysctls", Counter(settings)

    def _announced(self, names: dict[int, str]) -> Iterator[tuple[str, Iterable[object]]]:
        addresses = [(body[:4], names[_u32(body, 4)], attributes(body[8:])) for _, body in self._dump(22, 8)]
        yield "addresses", [(head, name, found.get(_LOCAL)) for head, name, found in addresses]
        yield "routes", [(body[:12], attributes(body[12:]).get(_DST)) for _, body in self._dump(26, 12)]
        stations = [(body, attributes(body[12:])) for family in (2, 7) for _, body in self._dump(30, 12, family)]
        yield (
            "neighbours",
            [
                (names[_u32(body, 4)], body[8:12], found.get(_DST), found[_LLADDR])
                for body, found in stations
                if body[8] & _PERMANENT and names[_u32(body, 4)] != "veth"
            ],
        )
        yield "qdiscs", [(names[_u32(body, 4)], attributes(body[20:])[1]) for _, body in self._dump(38, 20)]

    def _dump(self, kind: int, header: int, family: int = 0) -> list[tuple[int, bytes]]:
        """Dump a kind of object: an RTM_GET*, whose header has this length and begins with the family."""
        return self._route.dump(kind, bytes((family, *[0] * (header - 1))))

    def _rules(self) -> Counter[object]:
        if not nft._tables(self._filter):
            return Counter()
        if not self._nft:
            self._nft = self._stack.enter_context(closing(nft.Nftables(self.name)))
            self._nft._handle.set_stateless_output(True)
        if self._nft.generation() != self._generation:
            self._generation = self._nft.generation()
            listed = self._nft._handle.cmd("list ruleset")[1]
            lines = re.sub(r"elements = \{(.*?)\}", _elements, listed, flags=re.DOTALL).splitlines()
            self._ruleset = Counter(line for line in lines if line.strip())
        return self._ruleset

    def _members(self) -> Iterator[object]:
        """Yield each member of each set of iptables, and each set."""
        try:
            answers = self._filter.dump(_LIST_SETS, b"\2\0\0\0" + attribute(1, b"\6"))  # IPSET_ATTR_PROTOCOL
        except NetlinkError:  # this kernel has no sets
            return
        for _, body in answers:
            found = attributes(body[4:])
            yield found[2]  # IPSET_ATTR_SETNAME
            members, offset = found.get(8, b""), 0  # IPSET_ATTR_ADT
            while offset + 4 <= len(members):
                length = int.from_bytes(members[offset : offset + 2], sys.byteorder)
                yield found[2], members[offset + 4 : offset + length]
                offset += length + (-length % 4)

    def _read(self, path: str) -> bytes:
        """Return the content of a file of the namespace that the process is in; nothing if its module is not loaded."""
        if path not in self._files:
            with suppress(FileNotFoundError):
                self._files[path] = os.open(path, os.O_RDONLY)
                self._stack.callback(os.close, self._files[path])
        return os.pread(self._files[path], 256, 0) if path in self._files else b""


def _elements(listed: re.Match[str]) -> str:
    """Return an element a line, in no order. Elements that traffic has added have time-outs, and are not returned."""
    return "\n".join(each.strip() for each in listed[1].split(",") if " timeout " not in each)


def _settings(link: dict[int, bytes]) -> bytes:
    return attributes(attributes(link[_AF_SPEC])[_INET])[_CONF]


def _u32(body: bytes, offset: int) -> int:
    return int.from_bytes(body[offset : offset + 4], sys.byteorder)


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _plain(name: str) -> str:
    """Remove the number that a veth end has by chance."""
    return re.sub(r"^veth\d+$", "veth", name)
