"""The connection tracking table of one namespace, over ctnetlink."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping

from dataplanes.kernel import netlink
from dataplanes.kernel.netlink import Netlink, Request, attribute, attributes

_GET, _DELETE, _GET_STATS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES
_IPV4 = struct.pack("=BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_TUPLE_IP, _SOURCE, _DESTINATION = 1, 1, 2  # CTA_TUPLE_IP, CTA_IP_V4_*
_TUPLE_PROTOCOL, _PROTOCOL_NUMBER = 2, 1  # CTA_TUPLE_PROTO, CTA_PROTO_NUM
_FILTER_ORIGINAL, _FILTER_REPLY, _BY_DESTINATION = 1, 2, 2  # CTA_FILTER_*, CTA_FILTER_F_CTA_IP_DST
_NESTED = 0x8000
_FEW = 4  # up to so many destinations the kernel is asked for each, and beyond for the whole table


class Conntrack:
    """The entries of one namespace. The kernel loads nf_conntrack_netlink by itself if it has that module."""

    def __init__(self, name: str) -> None:
        self.netns = name
        self._netlink = Netlink(name, netlink.NETFILTER)

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. The entries stay. Idempotent."""
        self._netlink.close()

    def flush(self, keep: Mapping[str, Collection[str]], protocol: int | None = None) -> int:
        """Delete entries to these VIPs whose replies come from other backends than these: {VIP: backends}.

        `protocol` restricts this to one transport. Return how many entries were found. An entry that has expired
        meanwhile counts as deleted.
        """
        kept = {socket.inet_aton(vip): set(map(socket.inet_aton, backends)) for vip, backends in keep.items()}
        stale = [
            _delete(entry)
            for entry in self._entries(kept)
            if (backends := kept.get(_address(entry[_ORIGINAL], _DESTINATION))) is not None
            and _address(entry[_REPLY], _SOURCE) not in backends
            and protocol in (None, _protocol(entry[_ORIGINAL]))
        ]
        self._netlink.send(stale, ignore=(errno.ENOENT,))
        return len(stale)

    def count(self) -> int:
        """Return the number of entries in the namespace."""
        ((_, body),) = self._netlink.dump(_GET_STATS, _IPV4, 0)
        return int.from_bytes(attributes(body[4:])[_ENTRIES], "big")

    def _entries(self, destinations: Collection[bytes]) -> Iterator[dict[int, bytes]]:
        # All namespaces share one table, and a dump goes through all of its buckets: 10 ms for 262,144 buckets
        # (ctnetlink_dump_table). Most containers have no entry at all, and need not pay that.
        if not self.count():
            return
        queries: Iterable[bytes] = map(_sent_to, destinations) if len(destinations) <= _FEW else (b"",)
        for query in queries:
            for _, body in self._netlink.dump(_GET, _IPV4 + query):
                yield attributes(body[4:])


def _address(endpoints: bytes, which: int) -> bytes:
    return attributes(attributes(endpoints)[_TUPLE_IP]).get(which, b"")


def _protocol(endpoints: bytes) -> int:
    return attributes(attributes(endpoints)[_TUPLE_PROTOCOL])[_PROTOCOL_NUMBER][0]


def _sent_to(address: bytes) -> bytes:
    """Return a query for the entries of one original destination (since Linux 5.8)."""
    endpoints = attribute(_TUPLE_IP | _NESTED, attribute(_DESTINATION, address))
    flags = attribute(_FILTER_ORIGINAL, struct.pack("=I", _BY_DESTINATION)) + attribute(_FILTER_REPLY, bytes(4))
    return attribute(_ORIGINAL | _NESTED, endpoints) + attribute(_FILTER | _NESTED, flags)


def _delete(entry: Mapping[int, bytes]) -> Request:
    # The id spares an entry that took this one's place in the meantime.
    body = _IPV4 + attribute(_ORIGINAL | _NESTED, entry[_ORIGINAL]) + attribute(_ID, entry[_ID])
    if _ZONE in entry:
        body += attribute(_ZONE, entry[_ZONE])
    return Request(_DELETE, 0, body)
