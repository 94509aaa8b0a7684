"""The rtnetlink requests that are packed by hand say what pyroute2 would say, and links are read as it reads them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from dataplanes.kernel.netlink import CREATE, EXCL, REPLACE, Netlink, Request
from dataplanes.kernel.rtnl import Link, Rtnl

Attrs = list[tuple[str, Any]]
MAC = "02:42:0a:00:00:07"
INDEX = 7


class Unsent(Rtnl):
    """Requests of a namespace that does not exist, in which each interface has the same index."""

    def __init__(self) -> None:
        self.netns = "nowhere"
        self.sent: list[Request] = []

    def index(self, interface: str) -> int:
        return INDEX

    def send(self, requests: Any, *, ignore: tuple[int, ...] = ()) -> None:
        self.sent += requests


@pytest.fixture
def rtnl() -> Unsent:
    return Unsent()


def encoded(message: nlmsg, fields: Mapping[str, Any], attrs: Attrs) -> bytes:
    """Return what pyroute2 makes of these fields and attributes, without the netlink header."""
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)[16:]


def told(cls: type[nlmsg], body: bytes) -> Any:
    """Return what pyroute2 reads in a body: all fields, and all attributes with those in them."""
    message = cls((16 + len(body)).to_bytes(4, "little") + bytes(12) + body)
    message.decode()

    def plain(value: Any) -> Any:
        if not isinstance(value, dict) or "attrs" not in value:
            return value
        inner = sorted((name, plain(each)) for name, each in value["attrs"])
        return {**{k: v for k, v in value.items() if k not in ("attrs", "header", "value")}, "attrs": inner}

    return plain(message)


def info(kind: str, *data: tuple[str, Any]) -> tuple[str, Any]:
    inner: Attrs = [("IFLA_INFO_KIND", kind)]
    return "IFLA_LINKINFO", {"attrs": [*inner, ("IFLA_INFO_DATA", {"attrs": list(data)})] if data else inner}


IPV4 = {"family": socket.AF_INET}
UP = {"flags": 1, "change": 1}
ROUTE = {**IPV4, "table": 254, "proto": 4, "type": 1}
OWN = {**IPV4, "dst_len": 32, "table": 255, "proto": 4, "scope": 254, "type": 2}
LINK = {"index": INDEX}
OUT: tuple[str, Any] = ("RTA_OIF", INDEX)
KNOWN = {"ifindex": INDEX, "state": 0x80}
VIP = "10.0.0.2"
VXLAN = [("IFLA_VXLAN_ID", 4097), ("IFLA_VXLAN_PORT", 4789)]
FLAGS = [(f"IFLA_VXLAN_{flag}", 1) for flag in ("LEARNING", "PROXY", "L2MISS", "L3MISS")]
HAIRPIN: Attrs = [
    ("IFLA_INFO_SLAVE_KIND", "bridge"),
    ("IFLA_INFO_SLAVE_DATA", {"attrs": [("IFLA_BRPORT_MODE", 1)]}),
]
NEW, SET = CREATE | EXCL, CREATE | REPLACE

Case = tuple[Callable[[Rtnl], Request], type[nlmsg], int, int, dict[str, Any], Attrs]
LINKS: dict[str, Case] = {
    "a bridge": (
        lambda r: r.link_add("br0", "bridge", mtu=1450),
        *(ifinfmsg, 16, NEW, {}),
        [("IFLA_IFNAME", "br0"), info("bridge"), ("IFLA_MTU", 1450)],
    ),
    "a dummy": (
        lambda r: r.link_add("ipvs0", "dummy", address=MAC),
        *(ifinfmsg, 16, NEW, {}),
        [("IFLA_IFNAME", "ipvs0"), info("dummy"), ("IFLA_ADDRESS", MAC)],
    ),
    "a vxlan": (
        lambda r: r.vxlan_add("vx0", 4097, 4789, ("learning", "proxy", "l2miss", "l3miss"), mtu=1450),
        *(ifinfmsg, 16, NEW, {}),
        [("IFLA_IFNAME", "vx0"), info("vxlan", *VXLAN, *FLAGS), ("IFLA_MTU", 1450)],
    ),
    "a vxlan without flags": (
        lambda r: r.vxlan_add("vx0", 4097, 4789),
        *(ifinfmsg, 16, NEW, {}),
        [("IFLA_IFNAME", "vx0"), info("vxlan", *VXLAN)],
    ),
    "up": (lambda r: r.link_set("eth0", up=True), ifinfmsg, 16, 0, {**LINK, **UP}, []),
    "down": (lambda r: r.link_set("eth0", up=False), ifinfmsg, 16, 0, {**LINK, "change": 1}, []),
    "a port": (lambda r: r.link_set("v0", up=True, master=3), ifinfmsg, 16, 0, {**LINK, **UP}, [("IFLA_MASTER", 3)]),
    "moved": (
        lambda r: r.link_set("vx0", net_ns_fd=5, ifname="vxlan0", address=MAC),
        *(ifinfmsg, 16, 0, LINK),
        [("IFLA_NET_NS_FD", 5), ("IFLA_IFNAME", "vxlan0"), ("IFLA_ADDRESS", MAC)],
    ),
    "hairpin": (
        lambda r: r.hairpin("v0", True),
        *(ifinfmsg, 16, 0, LINK),
        [("IFLA_LINKINFO", {"attrs": HAIRPIN})],
    ),
}
ADDRESSES: dict[str, Case] = {
    "an address": (
        lambda r: r.address_add("eth0", "10.0.0.3/24"),
        *(ifaddrmsg, 20, NEW, {**IPV4, "prefixlen": 24, "scope": 0, **LINK}),
        [("IFA_LOCAL", "10.0.0.3"), ("IFA_ADDRESS", "10.0.0.3"), ("IFA_BROADCAST", "10.0.0.255")],
    ),
    "a VIP": (
        lambda r: r.address_add("lo", "10.0.0.2/32", scope="host"),
        *(ifaddrmsg, 20, NEW, {**IPV4, "prefixlen": 32, "scope": 254, **LINK}),
        [("IFA_LOCAL", "10.0.0.2"), ("IFA_ADDRESS", "10.0.0.2")],
    ),
    "an address gone": (
        lambda r: r.address_del("lo", "10.0.0.2/32"),
        *(ifaddrmsg, 21, 0, {**IPV4, "prefixlen": 32, "scope": 0, **LINK}),
        [("IFA_LOCAL", "10.0.0.2"), ("IFA_ADDRESS", "10.0.0.2")],
    ),
}
ROUTES: dict[str, Case] = {
    "the default": (
        lambda r: r.route_add("default", interface="eth1", gateway="172.18.0.1"),
        *(rtmsg, 24, SET, {**ROUTE, "scope": 0}),
        [OUT, ("RTA_GATEWAY", "172.18.0.1")],
    ),
    "to a network": (
        lambda r: r.route_add("10.0.1.0/24", interface="eth1"),
        *(rtmsg, 24, SET, {**ROUTE, "scope": 253, "dst_len": 24}),
        [OUT, ("RTA_DST", "10.0.1.0")],
    ),
    "to a network gone": (
        lambda r: r.route_del("10.0.1.0/24", interface="eth1"),
        *(rtmsg, 25, 0, {**ROUTE, "scope": 253, "dst_len": 24}),
        [OUT, ("RTA_DST", "10.0.1.0")],
    ),
    "one's own": (lambda r: r.local_add("lo", VIP), rtmsg, 24, NEW, OWN, [OUT, ("RTA_DST", VIP)]),
    "one's own, from another": (
        lambda r: r.local_add("lo", VIP, "10.0.0.3"),
        *(rtmsg, 24, NEW, OWN),
        [OUT, ("RTA_DST", VIP), ("RTA_PREFSRC", "10.0.0.3")],
    ),
    "one's own gone": (lambda r: r.local_del("lo", VIP), rtmsg, 25, 0, OWN, [OUT, ("RTA_DST", VIP)]),
}
NEIGHBOURS: dict[str, Case] = {
    "a neighbour": (
        lambda r: r.neighbour_set("vxlan0", "10.0.0.3", MAC),
        *(ndmsg, 28, SET, {**IPV4, **KNOWN}),
        [("NDA_DST", "10.0.0.3"), ("NDA_LLADDR", MAC)],
    ),
    "a neighbour gone": (
        lambda r: r.neighbour_del("vxlan0", "10.0.0.3"),
        *(ndmsg, 29, 0, {**IPV4, **KNOWN}),
        [("NDA_DST", "10.0.0.3")],
    ),
    "behind a VTEP": (
        lambda r: r.fdb_set("vxlan0", MAC, "192.168.65.3"),
        *(ndmsg, 28, SET, {"family": socket.AF_BRIDGE, **KNOWN, "flags": 2}),
        [("NDA_DST", "192.168.65.3"), ("NDA_LLADDR", MAC)],
    ),
    "behind no VTEP": (
        lambda r: r.fdb_del("vxlan0", MAC, "192.168.65.3"),
        *(ndmsg, 29, 0, {"family": socket.AF_BRIDGE, **KNOWN, "flags": 2}),
        [("NDA_DST", "192.168.65.3"), ("NDA_LLADDR", MAC)],
    ),
    "behind a port": (
        lambda r: r.port_fdb_set("v0", MAC),
        *(ndmsg, 28, SET, {"family": socket.AF_BRIDGE, **KNOWN, "state": 0x40, "flags": 4}),
        [("NDA_LLADDR", MAC)],
    ),
    "behind no port": (
        lambda r: r.port_fdb_del("v0", MAC),
        *(ndmsg, 29, 0, {"family": socket.AF_BRIDGE, **KNOWN, "state": 0x40, "flags": 4}),
        [("NDA_LLADDR", MAC)],
    ),
}
CASES = {**LINKS, **ADDRESSES, **ROUTES, **NEIGHBOURS}


@pytest.mark.parametrize("name", CASES)
def test_a_request_says_what_pyroute2_would_say(name: str, rtnl: Unsent) -> None:
    ask, cls, kind, flags, fields, attrs = CASES[name]
    request = ask(rtnl)
    assert (request.kind, request.flags) == (kind, flags)
    assert told(cls, request.body) == told(cls, encoded(cls(), fields, attrs))


def test_a_pair_says_what_pyroute2_would_say(rtnl: Unsent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplanes.kernel.netns.path", lambda name: "/dev/null")
    monkeypatch.setattr("os.open", lambda path, flags: 0x77)
    monkeypatch.setattr("os.close", lambda handle: None)
    rtnl.veth_add("v0", "eth0", "there", mac=MAC, mtu=1450)
    (request,) = rtnl.sent
    peer = [("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", MAC), ("IFLA_MTU", 1450), ("IFLA_NET_NS_FD", 0x77)]
    pair: Attrs = [("IFLA_IFNAME", "v0"), info("veth", ("VETH_INFO_PEER", {"attrs": peer})), ("IFLA_MTU", 1450)]
    assert (request.kind, request.flags) == (16, NEW)
    assert told(ifinfmsg, request.body) == told(ifinfmsg, encoded(ifinfmsg(), {}, pair))


def test_a_link_is_read_as_pyroute2_reads_it() -> None:
    attrs: Attrs = [("IFLA_IFNAME", "vxlan0"), ("IFLA_ADDRESS", MAC), ("IFLA_MASTER", 3), info("vxlan", *VXLAN)]
    body = encoded(ifinfmsg(), LINK, attrs)
    link = Link.unpack(body)
    assert (link.index, link.name, link.mac, link.master, link.kind) == (INDEX, "vxlan0", MAC, 3, "vxlan")
    assert Link.unpack(encoded(ifinfmsg(), LINK, [("IFLA_IFNAME", "lo")])) == Link(INDEX, "lo", "", 0, "")


def about(number: int, state: int = 0) -> bytes:
    """Return what is said of a neighbour by its address and state."""
    fields = {"family": socket.AF_INET, "ifindex": INDEX, "state": state}
    return encoded(ndmsg(), fields, [("NDA_DST", f"10.0.0.{number}")])


class Told:
    """A netlink socket on which the kernel tells of neighbours in these states."""

    def __init__(self, *states: int) -> None:
        self._states = states

    def dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        assert (kind, told(ndmsg, body)) == (30, told(ndmsg, encoded(ndmsg(), {"family": socket.AF_INET}, [])))
        return [(28, about(state, state)) for state in self._states]


def test_a_neighbour_who_has_not_answered_is_forgotten_and_no_other(rtnl: Unsent) -> None:
    incomplete, reachable, stale, failed, permanent = 0x01, 0x02, 0x04, 0x20, 0x80
    rtnl._netlink = cast(Netlink, Told(incomplete, reachable, stale, failed, permanent))
    removed = [(each.kind, each.flags, told(ndmsg, each.body)) for each in rtnl.sought()]
    assert removed == [(29, 0, told(ndmsg, about(state))) for state in (incomplete, failed)]
