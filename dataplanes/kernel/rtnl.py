"""Links, addresses, routes, neighbours and fdb entries of one namespace, over rtnetlink.

pyroute2 encodes the messages, and `Netlink` sends them in bulk.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_interface, ip_network
from typing import Any

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from dataplanes.kernel import netlink, netns
from dataplanes.kernel.netlink import CREATE, EXCL, REPLACE, Netlink, Request, attribute, attributes

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_NEWQDISC, _DELQDISC, _NEWTFILTER = 36, 37, 44
_CLSACT_HANDLE, _CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1  # TC_H_CLSACT, which is TC_H_INGRESS
_CLSACT = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # the two hooks of clsact
_TCA_KIND, _TCA_OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS = 1, 2, 6, 7, 8
_ETH_P_ALL = 3
_IFF_UP = 1
_OPERSTATE, _LINKINFO, _SLAVE_DATA, _PORT_STATE = 16, 18, 5, 1  # IFLA_*, IFLA_INFO_SLAVE_DATA, IFLA_BRPORT_STATE
_UP, _FORWARDING = 6, 3  # IF_OPER_UP, BR_STATE_FORWARDING
_NOARP, _PERMANENT = 0x40, 0x80  # NUD_*
_SELF, _MASTER = 0x02, 0x04  # NTF_*
_SCOPE = {"global": 0, "link": 253, "host": 254}


def _request(
    kind: int, flags: int, message: nlmsg, fields: Mapping[str, Any], attrs: Iterable[tuple[str, Any]]
) -> Request:
    for field, value in fields.items():
        message[field] = value
    message["attrs"] = list(attrs)
    message.encode()
    return Request(kind, flags, bytes(message.data)[16:])


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
        return str(self._link(interface).get_attr("IFLA_ADDRESS"))

    def master(self, port: str) -> int:
        """Return the index of the bridge that has this interface as a port."""
        return int(self._link(port).get_attr("IFLA_MASTER"))

    def carries(self, interface: str) -> bool:
        """Return True if the kernel has activated an interface, and its bridge, if it has one, forwards for it.

        Until then what is sent through it is dropped by a queue that takes nothing (net/sched/sch_generic.c,
        noop_enqueue). One function activates it and sets its state to up (net/core/link_watch.c, linkwatch_do_dev).
        """
        body = struct.pack("=BxHiII", 0, 0, self.index(interface), 0, 0)
        ((_, answer),) = self._netlink.dump(_GETLINK, body, 0)
        link = attributes(answer[len(body) :])
        about = attributes(link.get(_LINKINFO, b""))
        port = attributes(about[_SLAVE_DATA]).get(_PORT_STATE) if _SLAVE_DATA in about else None
        return link[_OPERSTATE][0] == _UP and (port is None or port[0] == _FORWARDING)

    def _link(self, interface: str) -> Any:
        body = _request(_GETLINK, 0, ifinfmsg(), {}, [("IFLA_IFNAME", interface)]).body
        (link,) = _decode(ifinfmsg, self._netlink.dump(_GETLINK, body, 0))
        return link

    # -- requests, which are sent in bulk ---------------------------------------------------------------------------

    def link_add(self, interface: str, kind: str, *, data: Sequence[tuple[str, Any]] = (), **attrs: Any) -> Request:
        """Return the request for a new link.

        `data` has the kind's own attributes, `attrs` any IFLA_* in lower case (mtu=1450).
        """
        info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
        if data:
            info.append(("IFLA_INFO_DATA", {"attrs": list(data)}))
        pairs = [("IFLA_IFNAME", interface), ("IFLA_LINKINFO", {"attrs": info})]
        pairs += [(f"IFLA_{key.upper()}", value) for key, value in attrs.items()]
        return _request(_NEWLINK, CREATE | EXCL, ifinfmsg(), {}, pairs)

    def veth_add(self, interface: str, peer: str, peer_netns: str, *, mac: str, mtu: int) -> None:
        """Create a veth pair: `interface` here with a random MAC, and `peer` in `peer_netns` with the given MAC."""
        target = os.open(netns.path(peer_netns), os.O_RDONLY | os.O_CLOEXEC)
        try:
            other = {
                "attrs": [
                    ("IFLA_IFNAME", peer),
                    ("IFLA_ADDRESS", mac),
                    ("IFLA_MTU", mtu),
                    ("IFLA_NET_NS_FD", target),
                ]
            }
            self.send([self.link_add(interface, "veth", data=[("VETH_INFO_PEER", other)], mtu=mtu)])
        finally:
            os.close(target)

    def link_set(self, interface: str, *, up: bool | None = None, **attrs: Any) -> Request:
        """Return the request that changes a link: up, master=index, net_ns_fd=fd, ifname=..., address=MAC, mtu=..."""
        fields = {"index": self.index(interface)}
        if up is not None:
            fields |= {"flags": _IFF_UP if up else 0, "change": _IFF_UP}
        return _request(_NEWLINK, 0, ifinfmsg(), fields, [(f"IFLA_{k.upper()}", v) for k, v in attrs.items()])

    def link_del(self, interface: str) -> Request:
        """Return the request that deletes a link."""
        request = _request(_DELLINK, 0, ifinfmsg(), {"index": self.index(interface)}, [])
        self._index.pop(interface, None)
        return request

    def hairpin(self, port: str, on: bool) -> Request:
        """Return the request that lets a bridge port send a frame back to where it came from."""
        data = {"attrs": [("IFLA_BRPORT_MODE", int(on))]}
        info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data)]
        return self.link_set(port, linkinfo={"attrs": info})

    def address_add(self, interface: str, address: str, *, scope: str = "global") -> Request:
        """Return the request for an IPv4 address in CIDR notation. It is refused (EEXIST) if the address exists."""
        return self._address(_NEWADDR, CREATE | EXCL, interface, address, scope)

    def address_del(self, interface: str, address: str) -> Request:
        """Return the request that removes an address."""
        return self._address(_DELADDR, 0, interface, address, "global")

    def _address(self, kind: int, flags: int, interface: str, address: str, scope: str) -> Request:
        parsed = ip_interface(address)
        pairs = [("IFA_LOCAL", str(parsed.ip)), ("IFA_ADDRESS", str(parsed.ip))]
        if parsed.network.prefixlen < 31:
            pairs.append(("IFA_BROADCAST", str(parsed.network.broadcast_address)))
        fields = {
            "family": socket.AF_INET,
            "prefixlen": parsed.network.prefixlen,
            "index": self.index(interface),
            "scope": _SCOPE[scope],
        }
        return _request(kind, flags, ifaddrmsg(), fields, pairs)

    def route_add(self, destination: str, *, interface: str, gateway: str | None = None) -> Request:
        """Return the request for a route in the main table. The destination is "default" or CIDR."""
        return self._route(_NEWROUTE, CREATE | REPLACE, destination, interface, gateway)

    def route_del(self, destination: str, *, interface: str) -> Request:
        """Return the request that removes a route without a gateway from the main table."""
        return self._route(_DELROUTE, 0, destination, interface, None)

    def _route(self, kind: int, flags: int, destination: str, interface: str, gateway: str | None) -> Request:
        prefix = 0 if destination == "default" else ip_network(destination).prefixlen
        pairs: list[tuple[str, Any]] = [("RTA_OIF", self.index(interface))]
        if prefix:
            pairs.append(("RTA_DST", str(ip_network(destination).network_address)))
        if gateway:
            pairs.append(("RTA_GATEWAY", gateway))
        fields = {
            "family": socket.AF_INET,
            "dst_len": prefix,
            "table": 254,
            "proto": 4,  # RTPROT_STATIC
            "scope": _SCOPE["global" if gateway else "link"],
            "type": 1,  # RTN_UNICAST
        }
        return _request(kind, flags, rtmsg(), fields, pairs)

    def local_add(self, interface: str, address: str, source: str = "") -> Request:
        """Return the request for a route that makes an address this namespace's own.

        The namespace itself connects to it from `source`, or else from the address itself. The request is refused
        (EEXIST) if the route exists.
        """
        return self._local(_NEWROUTE, CREATE | EXCL, interface, address, [("RTA_PREFSRC", source)] if source else [])

    def local_del(self, interface: str, address: str) -> Request:
        """Return the request that removes such a route."""
        return self._local(_DELROUTE, 0, interface, address, [])

    def _local(self, kind: int, flags: int, interface: str, address: str, attrs: Sequence[tuple[str, str]]) -> Request:
        fields = {
            "family": socket.AF_INET,
            "dst_len": 32,
            "table": 255,  # RT_TABLE_LOCAL
            "proto": 4,  # RTPROT_STATIC
            "scope": _SCOPE["host"],
            "type": 2,  # RTN_LOCAL
        }
        pairs = [("RTA_DST", address), ("RTA_OIF", self.index(interface)), *attrs]
        return _request(kind, flags, rtmsg(), fields, pairs)

    def neighbour_set(self, interface: str, address: str, mac: str) -> Request:
        """Return the request for a permanent neighbour entry."""
        return self._neighbour(_NEWNEIGH, CREATE | REPLACE, interface, socket.AF_INET, 0, address, mac)

    def neighbour_del(self, interface: str, address: str) -> Request:
        """Return the request that removes a neighbour entry."""
        return self._neighbour(_DELNEIGH, 0, interface, socket.AF_INET, 0, address, None)

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
        fields = {"family": socket.AF_BRIDGE, "ifindex": self.index(port), "state": _NOARP, "flags": _MASTER}
        return _request(kind, flags, ndmsg(), fields, [("NDA_LLADDR", mac)])

    def _neighbour(
        self, kind: int, flags: int, interface: str, family: int, ntf: int, address: str, mac: str | None
    ) -> Request:
        pairs = [("NDA_DST", address)]
        if mac:
            pairs.append(("NDA_LLADDR", mac))
        fields = {"family": family, "ifindex": self.index(interface), "state": _PERMANENT, "flags": ntf}
        # pyroute2 picks the encoding of NDA_DST by the family, and encodes AF_BRIDGE as IPv4 too.
        return _request(kind, flags, ndmsg(), fields, pairs)

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
        body += attribute(_TCA_KIND, b"bpf\0") + attribute(_TCA_OPTIONS | 0x8000, options)
        return Request(_NEWTFILTER, CREATE, body)

    def _tc(self, interface: str, handle: int, parent: int, info: int) -> bytes:
        return struct.pack("=BxHiIII", 0, 0, self.index(interface), handle, parent, info)  # struct tcmsg

    # -- reading the kernel's state ---------------------------------------------------------------------------

    def links(self) -> list[nlmsg]:
        """Return every link (pyroute2 ifinfmsg)."""
        return _decode(ifinfmsg, self._netlink.dump(_GETLINK, _request(_GETLINK, 0, ifinfmsg(), {}, []).body))

    def ports(self, bridge: int, kind: str) -> list[str]:
        """Return the names of a bridge's ports of one kind.

        The kernel answers with those only (net/core/rtnetlink.c, link_kind_filtered).
        """
        info = {"attrs": [("IFLA_INFO_KIND", kind)]}
        body = _request(_GETLINK, 0, ifinfmsg(), {}, [("IFLA_MASTER", bridge), ("IFLA_LINKINFO", info)]).body
        return [str(link.get_attr("IFLA_IFNAME")) for link in _decode(ifinfmsg, self._netlink.dump(_GETLINK, body))]

    def addresses(self) -> list[nlmsg]:
        """Return every address (pyroute2 ifaddrmsg)."""
        return _decode(ifaddrmsg, self._netlink.dump(_GETADDR, _request(_GETADDR, 0, ifaddrmsg(), {}, []).body))

    def routes(self) -> list[nlmsg]:
        """Return every IPv4 route of every table (pyroute2 rtmsg)."""
        body = _request(_GETROUTE, 0, rtmsg(), {"family": socket.AF_INET}, []).body
        return _decode(rtmsg, self._netlink.dump(_GETROUTE, body))

    def neighbours(self, family: int = socket.AF_INET) -> list[nlmsg]:
        """Return every neighbour, or with AF_BRIDGE every forwarding entry (pyroute2 ndmsg)."""
        body = _request(_GETNEIGH, 0, ndmsg(), {"family": family}, []).body
        return _decode(ndmsg, self._netlink.dump(_GETNEIGH, body))
