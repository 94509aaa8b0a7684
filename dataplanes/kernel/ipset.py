"""The sets of one namespace that iptables matches (ipset), over netlink.

A member is written as ipset(8) writes it: 10.0.0.2, 10.0.0.2,tcp:80 or 10.0.0.3,tcp:80,10.0.0.3. To add a member that
is there, or to remove one that is not, is no error. A set that a rule names cannot be destroyed.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from dataplanes.kernel import netlink
from dataplanes.kernel.netlink import Netlink, Request, attribute

_CREATE, _DESTROY, _SWAP, _ADD, _DELETE = (6 << 8 | command for command in (2, 3, 6, 9, 10))  # NFNL_SUBSYS_IPSET
_IPV4 = struct.pack("=BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg
_PROTOCOL, _NAME, _TYPE, _REVISION, _FAMILY, _DATA = 1, 2, 3, 4, 5, 7  # IPSET_ATTR_*
_OTHER = _TYPE  # IPSET_ATTR_SETNAME2
_IP, _PORT, _PORT_TO, _PROTO, _IP2 = 1, 4, 5, 7, 20  # IPSET_ATTR_* within the data
_VERSION = b"\6"  # every kernel since 2.6.39 speaks this version
_NESTED, _NET = 0x8000, 0x4000  # NLA_F_NESTED, NLA_F_NET_BYTEORDER
_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}


class Sets:
    """The sets of one namespace. The kernel loads a type of set by itself if it is a module."""

    def __init__(self, name: str) -> None:
        self._netlink = Netlink(name, netlink.NETFILTER)

    def close(self) -> None:
        """Close the socket. The sets stay. Idempotent."""
        self._netlink.close()

    def send(self, requests: Iterable[Request]) -> None:
        """Carry out requests in order (see `Netlink.send`)."""
        self._netlink.send(requests)

    def replace(self, name: str, kind: str, members: Iterable[str]) -> None:
        """Give a set these members in one step, whatever members it has. It is created if it is not there."""
        other = f"{name[:24]}-NEW"
        self.send([create(name, kind), create(other, kind), *(add(other, member) for member in members)])
        self.send([swap(name, other)])
        self.send([destroy(other)])


def create(name: str, kind: str) -> Request:
    """Return the request that creates a set of a kind such as hash:ip,port. It is fine if there is one already."""
    ports = attribute(_PORT | _NET, bytes(2)) + attribute(_PORT_TO | _NET, b"\xff\xff")
    body = attribute(_TYPE, kind.encode() + b"\0") + attribute(_REVISION, b"\0") + attribute(_FAMILY, b"\2")
    return _request(_CREATE, name, body + attribute(_DATA | _NESTED, ports if kind == "bitmap:port" else b""))


def destroy(name: str) -> Request:
    """Return the request that destroys a set. It is fine if there is none."""
    return _request(_DESTROY, name, b"")


def swap(name: str, other: str) -> Request:
    """Return the request that swaps the members of two sets."""
    return _request(_SWAP, name, attribute(_OTHER, other.encode() + b"\0"))


def add(name: str, member: str) -> Request:
    """Return the request that adds a member."""
    return _request(_ADD, name, attribute(_DATA | _NESTED, _member(member)))


def delete(name: str, member: str) -> Request:
    """Return the request that removes a member."""
    return _request(_DELETE, name, attribute(_DATA | _NESTED, _member(member)))


def _request(command: int, name: str, body: bytes) -> Request:
    names = attribute(_PROTOCOL, _VERSION) + attribute(_NAME, name.encode() + b"\0")
    return Request(command, 0, _IPV4 + names + body)


def _member(text: str) -> bytes:
    address, *rest = text.split(",")
    data = _address(_IP, address)
    if rest:
        protocol, _, port = rest[0].partition(":")
        data += attribute(_PORT | _NET, struct.pack(">H", int(port))) + attribute(_PROTO, bytes([_NUMBERS[protocol]]))
    return data + (_address(_IP2, rest[1]) if len(rest) > 1 else b"")


def _address(kind: int, address: str) -> bytes:
    return attribute(kind | _NESTED, attribute(1 | _NET, socket.inet_aton(address)))  # IPSET_ATTR_IPADDR_IPV4
