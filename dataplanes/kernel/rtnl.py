"""Links, addresses, routes, neighbours and fdb entries of one namespace, over rtnetlink.

`Netlink` sends the requests in bulk. What a lab sends or asks hundreds of times is packed and unpacked here, and
pyroute2 decodes the rest (docs/design/netlink.md).
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

import msgspec

from dataplanes.kernel import netlink, netns
from dataplanes.kernel.netlink import CREATE, EXCL, REPLACE, Netlink, Request, attribute, attributes

if TYPE_CHECKING:
    from pyroute2.netlink import nlmsg

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWQDISC, _DELQDISC, _NEWTFILTER = 36, 37, 44
_CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1  # TC_H_CLSACT, which is TC_H_INGRESS
_CLSACT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # the two hooks of clsact
_TCA_KIND, _TCA_OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS = 1, 2, 6, 7, 8
_ETH_P_ALL = 3
_NESTED = 0x8000  # NLA_F_NESTED
_IFF_UP = 1
_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, length of the prefix, flags, scope, index
_RT = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, two prefix lengths, tos, table, protocol, scope, type, flags
_ND = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_OPERSTATE, _LINKINFO = 16, 18  # IFLA_*
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5  # IFLA_INFO_*
_PORT_STATE, _HAIRPIN = 1, 4  # IFLA_BRPORT_STATE, IFLA_BRPORT_MODE
_PEER = 1  # VETH_INFO_PEER
_VNI, _VXLAN_PORT = 1, 15  # IFLA_VXLAN_*
_VXLAN_FLAGS = {"learning": 7, "proxy": 11, "l2miss": 13, "l3miss": 14}  # IFLA_VXLAN_*
_LOCAL, _ADDRESS, _BROADCAST = 2, 1, 4  # IFA_*
_DST, _OIF, _GATEWAY, _PREFSRC = 1, 4, 5, 7  # RTA_*
_MAIN, _OWN = 254, 255  # RT_TABLE_MAIN, RT_TABLE_LOCAL
_STATIC, _UNICAST, _DELIVER = 4, 1, 2  # RTPROT_STATIC, RTN_UNICAST, RTN_LOCAL
_ND_DST, _LLADDR = 1, 2  # NDA_*
_UP, _FORWARDING = 6, 3  # IF_OPER_UP, BR_STATE_FORWARDING
_INCOMPLETE, _FAILED, _NOARP, _PERMANENT = 0x01, 0x20, 0x40, 0x80  # NUD_*
_SELF, _MASTER = 0x02, 0x04  # NTF_*
_SCOPE = {"global": 0, "link": 253, "host": 254}


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


_number = struct.Struct("=I").pack
_ipv4 = socket.inet_aton
_IFLA: dict[str, tuple[int, Callable[..., bytes]]] = {
    "address": (1, _mac),
    "ifname": (3, _text),
    "mtu": (4, _number),
    "master": (10, _number),
    "net_ns_fd": (28, _number),
}
"""What a link is given: IFLA_* in lower case, its number and how it is packed."""


def _link(attrs: dict[str, str | int]) -> bytes:
    return b"".join(attribute(_IFLA[name][0], _IFLA[name][1](value)) for name, value in attrs.items())


def _kind(kind: str, data: bytes = b"") -> bytes:
    """Return the attribute that says of which kind a link is, with the kind's own attributes."""
    info = attribute(_KIND, _text(kind))
    return attribute(_LINKINFO, info + attribute(_DATA, data) if data else info)


class Link(msgspec.Struct, frozen=True):
    """An interface as the kernel tells of it. `kind` is "" for one that no driver of a kind has made, as lo."""

    index: int
    name: str
    mac: str
    master: int
    kind: str

    @classmethod
    def unpack(cls, answer: bytes) -> Link:
        """Unpack the body of an RTM_NEWLINK."""
        found = attributes(answer[_IFINFO.size :])
        info = attributes(found.get(_LINKINFO, b""))
        return cls(
            _IFINFO.unpack_from(answer)[2],
            found[_IFLA["ifname"][0]].rstrip(b"\0").decode(errors="replace"),
            found.get(_IFLA["address"][0], b"").hex(":"),
            int.from_bytes(found.get(_IFLA["master"][0], b""), sys.byteorder),
            info.get(_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        )


def _decode(cls: type[nlmsg], answers: Iterable[tuple[int, bytes]]) -> list[nlmsg]:
    decoded = []
    for kind, body in answers:
        length = 16 + len(body)
        message = cls(netlink._NLMSG.pack(length, kind, 0, 0, 0) + body)
        message.decode()
        decoded.append(message)
    return decoded


class Rtnl:
    """rtnetlink in one namespace. Each interface name is looked up once."""

    def __init__(self, name: str) -> None:
        self.netns = name
        self._netlink = Netlink(name, netlink.ROUTE)
        self._index: dict[str, int] = {}

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()

    def send(self, requests: Iterable[Request], *, ignore: tuple[int, ...] = ()) -> None:
        """Carry out several requests in one go (see `Netlink.send`)."""
        self._netlink.send(requests, ignore=ignore)

    def index(self, interface: str) -> int:
        """Return the index of an interface. Raises KernelRefused (ENODEV) if it does not exist."""
        found = self._index.get(interface)
        if found is None:
            found = self._index[interface] = self._netlink.index(interface)
        return found

    def forget(self, interface: str) -> None:
        """Forget the index of a removed interface. Another interface with its name has another index."""
        self._index.pop(interface, None)

    def mac(self, interface: str) -> str:
        """Return the MAC of an interface."""
        return Link.unpack(self._answer(interface)).mac

    def master(self, port: str) -> int:
        """Return the index of the bridge that has this interface as a port."""
        return Link.unpack(self._answer(port)).master

    def carries(self, interface: str) -> bool:
        """Return True if the kernel has activated an interface, and its bridge, if it has one, forwards for it.

        Until then what is sent through it is dropped by a queue that takes nothing (net/sched/sch_generic.c,
        noop_enqueue). One function activates it and sets its state to up (net/core/link_watch.c, linkwatch_do_dev).
        """
        link = attributes(self._answer(interface)[_IFINFO.size :])
        about = attributes(link.get(_LINKINFO, b""))
        port = attributes(about[_SLAVE_DATA]).get(_PORT_STATE) if _SLAVE_DATA in about else None
        return link[_OPERSTATE][0] == _UP and (port is None or port[0] == _FORWARDING)

    def _answer(self, interface: str) -> bytes:
        """Return the body of the kernel's answer about one link."""
        ((_, answer),) = self._netlink.dump(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + _link({"ifname": interface}), 0)
        return answer

    # -- requests, which are sent in bulk ---------------------------------------------------------------------------

    def link_add(self, interface: str, kind: str, *, data: bytes = b"", **attrs: str | int) -> Request:
        """Return the request for a new link.

        `data` are the kind's own attributes, and `attrs` are any of `_IFLA` (mtu=1450).
        """
        made = attribute(_IFLA["ifname"][0], _text(interface)) + _kind(kind, data) + _link(attrs)
        return Request(_NEWLINK, CREATE | EXCL, _IFINFO.pack(0, 0, 0, 0, 0) + made)

    def vxlan_add(self, interface: str, vni: int, port: int, flags: Iterable[str] = (), **attrs: str | int) -> Request:
        """Return the request for a vxlan device with a UDP port, and with some of `_VXLAN_FLAGS`."""
        data = attribute(_VNI, _number(vni)) + attribute(_VXLAN_PORT, struct.pack("!H", port))
        data += b"".join(attribute(_VXLAN_FLAGS[flag], b"\1") for flag in flags)
        return self.link_add(interface, "vxlan", data=data, **attrs)

    def veth_add(self, interface: str, peer: str, peer_netns: str, *, mac: str, mtu: int) -> None:
        """Create a veth pair: `interface` here with a random MAC, and `peer` in `peer_netns` with the given MAC."""
        target = os.open(netns.path(peer_netns), os.O_RDONLY | os.O_CLOEXEC)
        try:
            other = _link({"ifname": peer, "address": mac, "mtu": mtu, "net_ns_fd": target})
            data = attribute(_PEER, _IFINFO.pack(0, 0, 0, 0, 0) + other)
            self.send([self.link_add(interface, "veth", data=data, mtu=mtu)])
        finally:
            os.close(target)

    def link_set(self, interface: str, *, up: bool | None = None, **attrs: str | int) -> Request:
        """Return the request that changes a link: up, master=index, net_ns_fd=fd, ifname=..., address=MAC, mtu=..."""
        return self._link_set(interface, up, _link(attrs))

    def _link_set(self, interface: str, up: bool | None, attrs: bytes) -> Request:
        flags = _IFF_UP if up else 0
        change = 0 if up is None else _IFF_UP
        return Request(_NEWLINK, 0, _IFINFO.pack(0, 0, self.index(interface), flags, change) + attrs)

    def link_del(self, interface: str) -> Request:
        """Return the request that deletes a link."""
        request = Request(_DELLINK, 0, _IFINFO.pack(0, 0, self.index(interface), 0, 0))
        self._index.pop(interface, None)
        return request

    def hairpin(self, port: str, on: bool) -> Request:
        """Return the request that lets a bridge port send a frame back to where it came from."""
        data = attribute(_SLAVE_DATA | _NESTED, attribute(_HAIRPIN, bytes((on,))))
        return self._link_set(port, None, attribute(_LINKINFO, attribute(_SLAVE_KIND, b"bridge\0") + data))

    def address_add(self, interface: str, address: str, *, scope: str = "global") -> Request:
        """Return the request for an IPv4 address in CIDR notation. It is refused (EEXIST) if the address exists."""
        return self._address(_NEWADDR, CREATE | EXCL, interface, address, scope)

    def address_del(self, interface: str, address: str) -> Request:
        """Return the request that removes an address."""
        return self._address(_DELADDR, 0, interface, address, "global")

    def _address(self, kind: int, flags: int, interface: str, address: str, scope: str) -> Request:
        parsed = ip_interface(address)
        prefix, own = parsed.network.prefixlen, parsed.ip.packed
        body = _IFADDR.pack(socket.AF_INET, prefix, 0, _SCOPE[scope], self.index(interface))
        body += attribute(_LOCAL, own) + attribute(_ADDRESS, own)
        if prefix < 31:
            body += attribute(_BROADCAST, parsed.network.broadcast_address.packed)
        return Request(kind, flags, body)

    def route_add(self, destination: str, *, interface: str, gateway: str | None = None) -> Request:
        """Return the request for a route in the main table. The destination is "default" or CIDR."""
        return self._route(_NEWROUTE, CREATE | REPLACE, destination, interface, gateway)

    def route_del(self, destination: str, *, interface: str) -> Request:
        """Return the request that removes a route without a gateway from the main table."""
        return self._route(_DELROUTE, 0, destination, interface, None)

    def _route(self, kind: int, flags: int, destination: str, interface: str, gateway: str | None) -> Request:
        network = ip_network("0.0.0.0/0" if destination == "default" else destination)
        scope = _SCOPE["global" if gateway else "link"]
        body = _RT.pack(socket.AF_INET, network.prefixlen, 0, 0, _MAIN, _STATIC, scope, _UNICAST, 0)
        body += attribute(_OIF, _number(self.index(interface)))
        if network.prefixlen:
            body += attribute(_DST, network.network_address.packed)
        if gateway:
            body += attribute(_GATEWAY, _ipv4(gateway))
        return Request(kind, flags, body)

    def local_add(self, interface: str, address: str, source: str = "") -> Request:
        """Return the request for a route that makes an address this namespace's own.

        The namespace itself connects to it from `source`, or else from the address itself. The request is refused
        (EEXIST) if the route exists.
        """
        return self._local(_NEWROUTE, CREATE | EXCL, interface, address, source)

    def local_del(self, interface: str, address: str) -> Request:
        """Return the request that removes such a route."""
        return self._local(_DELROUTE, 0, interface, address, "")

    def _local(self, kind: int, flags: int, interface: str, address: str, source: str) -> Request:
        body = _RT.pack(socket.AF_INET, 32, 0, 0, _OWN, _STATIC, _SCOPE["host"], _DELIVER, 0)
        body += attribute(_DST, _ipv4(address)) + attribute(_OIF, _number(self.index(interface)))
        return Request(kind, flags, body + attribute(_PREFSRC, _ipv4(source)) if source else body)

    def neighbour_set(self, interface: str, address: str, mac: str) -> Request:
        """Return the request for a permanent neighbour entry."""
        return self._neighbour(_NEWNEIGH, CREATE | REPLACE, interface, socket.AF_INET, 0, address, mac)

    def neighbour_del(self, interface: str, address: str) -> Request:
        """Return the request that removes a neighbour entry."""
        return self._neighbour(_DELNEIGH, 0, interface, socket.AF_INET, 0, address, None)

    def sought(self) -> list[Request]:
        """Return the requests that remove the IPv4 neighbours who were asked for and have not answered."""
        found = []
        for _, told in self._netlink.dump(_GETNEIGH, _ND.pack(socket.AF_INET, 0, 0, 0, 0)):
            family, index, state, _, _ = _ND.unpack_from(told)
            if state & (_INCOMPLETE | _FAILED):
                body = _ND.pack(family, index, 0, 0, 0) + attribute(_ND_DST, attributes(told[_ND.size :])[_ND_DST])
                found.append(Request(_DELNEIGH, 0, body))
        return found

    def fdb_set(self, interface: str, mac: str, remote: str) -> Request:
        """Return the request for a permanent forwarding entry of a vxlan: the MAC is behind the remote VTEP."""
        return self._neighbour(_NEWNEIGH, CREATE | REPLACE, interface, socket.AF_BRIDGE, _SELF, remote, mac)

    def fdb_del(self, interface: str, mac: str, remote: str) -> Request:
        """Return the request that removes a vxlan forwarding entry."""
        return self._neighbour(_DELNEIGH, 0, interface, socket.AF_BRIDGE, _SELF, remote, mac)

    def port_fdb_set(self, port: str, mac: str) -> Request:
        """Return the request for a static forwarding entry of a bridge: the MAC is behind this port."""
        return self._port_fdb(_NEWNEIGH, CREATE | REPLACE, port, mac)

    def port_fdb_del(self, port: str, mac: str) -> Request:
        """Return the request that removes a bridge's forwarding entry."""
        return self._port_fdb(_DELNEIGH, 0, port, mac)

    def _port_fdb(self, kind: int, flags: int, port: str, mac: str) -> Request:
        body = _ND.pack(socket.AF_BRIDGE, self.index(port), _NOARP, _MASTER, 0)
        return Request(kind, flags, body + attribute(_LLADDR, _mac(mac)))

    def _neighbour(
        self, kind: int, flags: int, interface: str, family: int, ntf: int, address: str, mac: str | None
    ) -> Request:
        body = _ND.pack(family, self.index(interface), _PERMANENT, ntf, 0) + attribute(_ND_DST, _ipv4(address))
        return Request(kind, flags, body + attribute(_LLADDR, _mac(mac)) if mac else body)

    def clsact_add(self, interface: str) -> Request:
        """Return the request for the classifier hooks in both directions. It is refused (EEXIST) if they are taken."""
        return self._hooks(_NEWQDISC, CREATE | EXCL, interface, "clsact")

    def clsact_del(self, interface: str) -> Request:
        """Return the request that removes the hooks and every classifier on them."""
        return self._hooks(_DELQDISC, 0, interface, "clsact")

    def ingress_add(self, interface: str) -> Request:
        """Return the request for the classifier hook of received packets. It is refused (EEXIST) if it is taken.

        A hook for sent packets would cost more: while one exists, every packet that any interface of the machine sends
        looks for a hook of its own (net/core/dev.c, egress_needed_key).
        """
        return self._hooks(_NEWQDISC, CREATE | EXCL, interface, "ingress")

    def ingress_del(self, interface: str) -> Request:
        """Return the request that removes the hook and every classifier on it."""
        return self._hooks(_DELQDISC, 0, interface, "ingress")

    def _hooks(self, action: int, flags: int, interface: str, kind: str) -> Request:
        body = self._tc(interface, _CLSACT_HANDLE, _CLSACT_PARENT, 0)
        return Request(action, flags, body + attribute(_TCA_KIND, kind.encode() + b"\0"))

    def classifier_set(self, interface: str, direction: str, program: int, name: str) -> Request:
        """Return the request for a BPF program that decides on each packet (direct action).

        It replaces the present one.

        `direction` is ingress or egress.
        """
        options = attribute(_BPF_FD, struct.pack("=I", program)) + attribute(_BPF_NAME, name.encode() + b"\0")
        options += attribute(_BPF_FLAGS, struct.pack("=I", 1))  # TCA_BPF_FLAG_ACT_DIRECT
        info = 1 << 16 | socket.htons(_ETH_P_ALL)  # priority, protocol
        body = self._tc(interface, 1, _CLSACT[direction], info)
        body += attribute(_TCA_KIND, b"bpf\0") + attribute(_TCA_OPTIONS | _NESTED, options)
        return Request(_NEWTFILTER, CREATE, body)

    def _tc(self, interface: str, handle: int, parent: int, info: int) -> bytes:
        return struct.pack("=BxHiIII", 0, 0, self.index(interface), handle, parent, info)  # struct tcmsg

    # -- reading the kernel's state ---------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """Return every link."""
        return [Link.unpack(body) for _, body in self._netlink.dump(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def ports(self, bridge: int, kind: str) -> list[str]:
        """Return the names of a bridge's ports of one kind.

        The kernel answers with those only (net/core/rtnetlink.c, link_kind_filtered).
        """
        body = _IFINFO.pack(0, 0, 0, 0, 0) + _link({"master": bridge}) + _kind(kind)
        return [Link.unpack(answer).name for _, answer in self._netlink.dump(_GETLINK, body)]

    def addresses(self) -> list[nlmsg]:
        """Return every address (pyroute2 ifaddrmsg)."""
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        return _decode(ifaddrmsg, self._netlink.dump(_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0)))

    def routes(self) -> list[nlmsg]:
        """Return every IPv4 route of every table (pyroute2 rtmsg)."""
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

        return _decode(rtmsg, self._netlink.dump(_GETROUTE, _RT.pack(socket.AF_INET, *[0] * 8)))

    def neighbours(self, family: int = socket.AF_INET) -> list[nlmsg]:
        """Return every neighbour, or with AF_BRIDGE every forwarding entry (pyroute2 ndmsg)."""
        from pyroute2.netlink.rtnl.ndmsg import ndmsg

        return _decode(ndmsg, self._netlink.dump(_GETNEIGH, _ND.pack(family, 0, 0, 0, 0)))
