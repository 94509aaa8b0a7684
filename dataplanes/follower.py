"""A follower of one flow: it reports where in the kernel a packet of the flow, or of its answer, is seen.

dataplanes/bpf/trace.c is attached to kernel functions by kprobes, and to tracepoints. It needs no headers: the offsets
of fields come from the kernel's BTF, in which the kernel describes its own types.
"""

from __future__ import annotations

import bisect
import functools
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from dataplanes import ebpf_object
from dataplanes.errors import Prerequisite
from dataplanes.kernel import bpf, btf, netns, perf
from dataplanes.kernel.btf import KernelTypes
from dataplanes.requirements import Compiled, Feature, Requirement
from dataplanes.spending import Around, Effort, Spending, around, effort

_TYPES = Path("/sys/kernel/btf")
_MOST_EVENTS = 16_384
_CAPACITIES = {
    "layouts": 1,
    "lost": 1,
    "spendings": 1,
    "places": 64,
    "namespaces": 4096,
    "packets": 4096,
    "flows": 1024,
    "sockets": 1024,
    "evaluated": 1024,
    "datagrams": 1024,
}
_NONE = 0xFFFF
_FIELDS = (
    *(f"sk_buff.{name}" for name in ("dev", "sk", "head", "data", "network_header", "mac_header", "mark", "_nfct")),
    *("sk_buff.end", "skb_shared_info.dataref"),
    *("net_device.nd_net.net", "net_device.ifindex", "net_device.name", "net.ns.inum", "sock.__sk_common.skc_net.net"),
    *("nf_hook_state.hook", "nf_hook_state.pf", "nf_hook_state.net", "nft_pktinfo.skb", "nft_pktinfo.state"),
    *("nft_chain.table", "nft_chain.name", "nft_table.name", "xt_table.name"),
    *("nft_chain.list", "nft_chain.blob_gen_0", "nft_chain.blob_gen_1", "nft_table.chains"),
    *("xt_table.private", "xt_table_info.entries", "xt_table_info.size"),
    *("xt_action_param.targinfo", "xt_action_param.state"),
)
"""The fields that trace.c reads, in the order of its `struct layout`."""
_IN_MODULES = ("nft_", "xt_")  # structures that are unknown, and not read, while their module is not loaded
_FREE = "__kfree_skb"
_POINTS = {
    "netif_receive_skb": "on_receive",
    "net_dev_queue": "on_queue",
    "kfree_skb": "on_drop",
    "consume_skb": "on_consume",
}
_EVENT = struct.Struct("=6Q24s 4s4s2s2sI 4s4s 3I H6B 6sBx 16s64s32s H2x")
_DROP, _CONNECT = 1, 2
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "icmp": socket.IPPROTO_ICMP, "sctp": 132}
_NUMBERS = {number: name for name, number in _PROTOCOLS.items()}


class Vantage(Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel function or tracepoint, and the names of the arguments that tell of the packet."""

    name: str
    module: str = ""
    arguments: list[str] = []
    skb: str = "skb"
    state: str = "state"
    pkt: str = "pkt"
    sockaddr: str = ""
    kind: str = ""
    chain: str = ""
    table: str = ""
    expression: str = ""
    target: str = ""

    @property
    def program(self) -> str:
        """The program that is attached to it: a function that is a part of a rule tells the rule."""
        return "on_rule" if self.expression or self.target else "on_entry"


PLACES = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_text("utf-8"), type=dict[str, list[Vantage]])[
    "place"
]


class Sighting(Struct, omit_defaults=True):
    """A packet of the flow at a place in the kernel. Times are in nanoseconds.

    `packet` is the same for a packet and its clones, and `copy` tells these apart. They are 0 where a socket is about
    to connect, send or receive, and there is no packet.
    """

    time: int
    place: str
    packet: int
    copy: int
    spent: int = 0  # how much of the time the follower has taken itself since it was attached
    namespace: str = ""  # without the run's number
    device: str = ""
    protocol: str = ""
    source: str = ""  # ADDRESS:PORT, or an ICMP echo's number in place of the port
    destination: str = ""
    carrier: str = ""  # the outer addresses while it is encapsulated
    mac: str = ""  # the destination's
    hook: str = ""
    ruleset: str = ""  # the table, and the chain if it is nft's
    rule: int = 0  # the rule of it that acts on the packet: its handle, or its target's place in a table of iptables
    mark: int = 0
    tracked: str = ""  # the connection's state: new, established, related; "reply" in its other direction
    flags: str = ""  # of TCP; of SCTP the first chunk
    icmp: int | None = None  # the type of an ICMP message,
    code: int = 0  # and its code
    fragment: int | None = None  # where a fragment begins in its datagram, in bytes
    reason: str = ""  # why it was dropped, by the kernel's name
    function: str = ""  # which dropped it


def wanted(image: btf.Btf) -> KernelTypes:
    """Return what a follower needs of a kernel image's types."""
    functions = image.functions(each.name for each in PLACES)
    return KernelTypes(
        image.next,
        functions,
        image.fields(_FIELDS),
        {
            "reasons": image.enumeration("skb_drop_reason"),
            "attachments": image.enumeration("cgroup_bpf_attach_type"),
        },
    )


def of_this_kernel() -> KernelTypes:
    """Return what a follower needs of the running kernel's types, which takes an emulated one some seconds.

    Raises Prerequisite for a kernel that does not describe them.
    """
    try:
        image = (_TYPES / "vmlinux").read_bytes()
    except OSError as error:
        raise Prerequisite("cannot follow packets", why="this kernel has no BTF", fix="--kernel guest") from error
    return wanted(btf.Btf(image))


REQUIRES: tuple[Requirement, ...] = (
    Feature("KPROBES", "", "packets are seen at the entries of kernel functions"),
    Feature("BPF_EVENTS", "", "BPF programs are attached to kernel functions"),
    Feature("DEBUG_INFO_BTF", "", "the kernel tells where the fields of its structures are"),
    Compiled("trace", "the program that follows packets"),
)
_HOOKS = {2: ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"), 5: ("ingress", "egress")}
_HOOKS[7] = tuple(f"bridge {name}" for name in (*_HOOKS[2], "BROUTING"))
_STATES = ("established", "related", "new", "established reply", "related reply")
_CHUNKS = {0: "DATA", 1: "INIT", 2: "INIT ACK", 3: "SACK", 4: "HEARTBEAT", 5: "HEARTBEAT ACK", 6: "ABORT"}
_CHUNKS |= {7: "SHUTDOWN", 8: "SHUTDOWN ACK", 10: "COOKIE ECHO", 11: "COOKIE ACK", 14: "SHUTDOWN COMPLETE"}
"""Type of SCTP's first chunk in a packet -> its name (RFC 9260, section 3.2)."""
_OFFSET = 0x1FFF
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_DROPPED, _TRACKED = "SKB_DROP_REASON_", 8
_FIRST = struct.pack("=I", 0)
_WORD, _START = 4, struct.Struct("=I2sH")  # an offset, and where flows begin: namespace, port and protocol


FLOODED = "OTHERHOST"
"""The reason for which a container drops a frame that the bridge has flooded, and that is another container's."""


class Follower:
    """A follower of one flow at a time. It sees nothing until it is told which."""

    def __init__(
        self, types: KernelTypes, namespaces: Mapping[str, str], work: Callable[[], object] | None = None
    ) -> None:
        """Attach. `namespaces` has the names that sightings are to have, by those of the namespaces.

        `work` has the kernel do what is followed: to send a packet. By it the follower finds out what it costs that the
        kernel calls the programs, if time is exact: by the instruction clock.

        Raises Prerequisite on a kernel without kprobes or with other structures, and KernelRefused.
        """
        self._types = types
        self._fields, self._functions = dict(types.fields), dict(types.functions)
        self._links: list[int] = []
        self._programs: dict[str, int] = {}
        self._maps: dict[str, bpf.Map] = {}
        self._inodes: dict[int, str] = {}
        self._around = Around()
        self._work = work
        unknown = [name for name in _FIELDS if name not in types.fields and not name.startswith(_IN_MODULES)]
        if unknown:
            raise Prerequisite("cannot follow packets", why=f"this kernel's structures have no {', '.join(unknown)}")
        try:
            self._read_modules()
            self._make_maps()
            for name, shown in namespaces.items():
                self.add(name, shown)
            self._lay_out(bytes(len(_FIELDS) * _WORD), bytes(_START.size))
            before = self._cost()
            self._attach_points()
            between = self._cost()
            self._attach_probes()
            if work:
                self._around = around(before, between, self._cost())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach. Idempotent."""
        for fd in (*self._links, *self._programs.values()):
            os.close(fd)
        self._links, self._programs = [], {}
        for each in self._maps.values():
            each.close()

    def add(self, name: str, shown: str) -> None:
        """See packets in a namespace, too. Sightings there are to have its other name."""
        inode = os.stat(netns.path(name)).st_ino
        self._inodes[inode] = shown
        self._maps["namespaces"].put(struct.pack("=I", inode), struct.pack("=I", 1))

    def _read_modules(self) -> None:
        """Find the functions and structures that are in modules."""
        before = b""
        for module in dict.fromkeys(each.module for each in PLACES if each.module):
            path = _TYPES / module
            if not path.exists():
                continue
            before = before or btf.names((_TYPES / "vmlinux").read_bytes())
            types = btf.Btf(path.read_bytes(), first=self._types.first, before=before)
            self._functions |= types.functions(each.name for each in PLACES if each.module == module)
            self._fields |= types.fields(set(_FIELDS) - set(self._fields))

    def watch(self, client: str = "", protocol: str = "", *, port: int = 0, vips: Sequence[str] = ()) -> None:
        """Follow the flows that begin in a namespace, by a protocol, from a port (of ICMP: an echo's number).

        Without a port these are the flows to the VIPs; without a namespace they begin in any, and without a protocol
        they are of any. What was seen of earlier flows is forgotten.
        """
        offsets = struct.pack(f"={len(_FIELDS)}I", *(self._fields.get(name, 0) for name in _FIELDS))
        nobody, begins = (0, bytes(2), 0), (0, struct.pack("!H", port), _PROTOCOLS.get(protocol, 0))
        if client:
            begins = os.stat(netns.path(client)).st_ino, *begins[1:]
        self._forget("vips")
        for start in (nobody, begins):  # without VIPs nobody's packet begins a flow
            self._forget("flows", "packets", "sockets", "evaluated", "datagrams")
            self.sightings()
            self._lay_out(offsets, _START.pack(*start))
        self._maps["lost"].put(_FIRST, bytes(8))
        for vip in vips:
            self._maps["vips"].put(socket.inet_aton(vip), struct.pack("=I", 1))

    def _lay_out(self, offsets: bytes, start: bytes) -> None:
        """Tell the programs where fields are, where flows begin, and to count what they take if that is asked for."""
        self._maps["layouts"].put(_FIRST, offsets + struct.pack("=I", bool(self._work)) + start)

    def _forget(self, *names: str) -> None:
        for name in names:
            self._maps[name].delete([key for key, _ in self._maps[name].items()])

    def _make_maps(self) -> None:
        found = ebpf_object.compiled("trace")
        for spec in found.maps:
            capacity = _CAPACITIES.get(spec.name, _MOST_EVENTS)
            self._maps[spec.name] = bpf.Map(spec.name, spec.kind, spec.key_size, spec.value_size, capacity, spec.flags)
        for number, place in enumerate(PLACES):
            if function := self._functions.get(place.name):
                known = function.arguments or place.arguments
                names = (place.skb, place.state, place.pkt, place.sockaddr, place.kind, place.chain, place.table)
                positions = [
                    known.index(each) if each in known else _NONE for each in (*names, place.expression, place.target)
                ]
                self._maps["places"].put(struct.pack("=I", number), struct.pack("=9H", *positions))

    def _attach_points(self) -> None:
        """Attach the programs of tracepoints; those that see packets leave before those that see them come."""
        for tracepoint, name in reversed(_POINTS.items()):
            self._links.append(bpf.link_tracepoint(self._loaded(name), tracepoint))

    def _attach_probes(self) -> None:
        self._watch(_FREE, "on_free", 0)
        for number, place in enumerate(PLACES):
            if place.name in self._functions:
                self._watch(place.name, place.program, number)

    def _watch(self, function: str, name: str, number: int) -> None:
        event = perf.kprobe(function)
        if event >= 0:
            try:
                self._links.append(bpf.link_event(self._loaded(name), event, number))
            finally:
                os.close(event)  # the link holds it

    def _loaded(self, name: str) -> int:
        if name not in self._programs:
            found = ebpf_object.compiled("trace")
            fds = {index: self._maps[spec.name].fd for index, spec in enumerate(found.maps)}
            code = ebpf_object.with_maps(found.programs[name], fds)
            self._programs[name] = bpf.load(name, *ebpf_object.PROGRAMS["trace"][name], code)
        return self._programs[name]

    @property
    def counts(self) -> bool:
        """True if it knows exactly what it spends."""
        return self._around != Around()

    def spending(self) -> Spending:
        """Return what the programs have taken since they were attached."""
        ((_, spent),) = self._maps["spendings"].get([_FIRST])
        return Spending.of(spent)

    def spent(self, programs: Spending) -> int:
        """Return what following has taken in all, if the programs have taken so much."""
        return programs.time + programs.probes * self._around.probe + programs.points * self._around.point

    def _cost(self) -> Effort:
        return effort(self._work, self.spending) if self._work else Effort()

    def lost(self) -> int:
        """Return the number of sightings that the kernel had no room for."""
        ((_, count),) = self._maps["lost"].get([_FIRST])
        return int.from_bytes(count, sys.byteorder)

    def sightings(self) -> list[Sighting]:
        """Return the sightings since the last call, in their order."""
        found = []
        while (event := self._maps["events"].pop()) is not None:
            found.append(self._sighting(event))
        return found

    def _sighting(self, event: bytes) -> Sighting:
        fields = _EVENT.unpack(event)
        time, packet, skb, location, reason, rule = fields[:6]
        spent = Spending.of(fields[6])
        source, destination, source_port, destination_port, protocol, outer_source, outer_destination = fields[7:14]
        inode, _, mark, place, kind, hook, family, flags, tracked, icmp, mac, code, device, name, table, part = fields[
            14:
        ]
        made = Sighting(time, PLACES[place].name, packet, skb, self.spent(spent))
        if kind == _CONNECT:
            made.hook = self._types.enums["attachments"].get(hook, "").removeprefix("CGROUP_").lower()
        elif family in _HOOKS and hook < len(_HOOKS[family]):
            made.hook = _HOOKS[family][hook]
        made.namespace, made.device = self._inodes[inode], _text(device)
        made.protocol = _NUMBERS.get(protocol, str(protocol))
        made.source, made.destination = _end(source, source_port), _end(destination, destination_port)
        if any(outer_source):
            made.carrier = f"{socket.inet_ntoa(outer_source)} > {socket.inet_ntoa(outer_destination)}"
        made.mac = mac.hex(":") if any(mac) else ""
        made.ruleset = " ".join(filter(None, (_text(table), _text(name))))
        made.rule = rule
        made.mark, made.icmp, made.code = mark, icmp - 1 if icmp else None, code
        if tracked & _TRACKED and tracked & 7 < len(_STATES):
            made.tracked = _STATES[tracked & 7]
        if made.protocol == "sctp":
            made.flags = _CHUNKS.get(flags - 1, f"chunk {flags - 1}") if flags else ""
        else:
            made.flags = " ".join(flag for bit, flag in enumerate(_FLAGS) if flags >> bit & 1)
        made.fragment = (part & _OFFSET) * 8 if part else None
        if kind == _DROP:
            made.reason = self._types.enums["reasons"].get(reason, str(reason)).removeprefix(_DROPPED)
            made.function = self._symbol(location) if made.reason != FLOODED else ""
        return made

    def _symbol(self, address: int) -> str:
        """Return the name of the kernel function that an address is in."""
        at = bisect.bisect(self._symbols, f"{address:016x} ~") - 1
        while at > 0 and self._symbols[at].split()[1] not in "tTwW":
            at -= 1
        return self._symbols[at].split()[2].partition(".")[0]

    @functools.cached_property
    def _symbols(self) -> list[str]:
        """The kernel's symbols in the order of their addresses. The kernel takes a second to tell them, if emulated."""
        return sorted(Path("/proc/kallsyms").read_text("ascii").splitlines())


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _end(address: bytes, port: bytes) -> str:
    return f"{socket.inet_ntoa(address)}:{int.from_bytes(port, 'big')}"
