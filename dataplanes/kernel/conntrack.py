"""The connection tracking table of one namespace, over ctnetlink."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from dataplanes.errors import KernelRefused
from dataplanes.kernel import netlink
from dataplanes.kernel.netlink import CREATE, EXCL, Netlink, Request, attribute, attributes

_NEW, _GET, _DELETE, _GET_STATS = (1 << 8 | number for number in (0, 1, 2, 5))  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_ENTRIES = 1  # CTA_STATS_GLOBAL_ENTRIES
_IPV4 = struct.pack("=BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_TUPLE_IP, _SOURCE, _DESTINATION = 1, 1, 2  # CTA_TUPLE_IP, CTA_IP_V4_*
_TUPLE_PROTOCOL, _PROTOCOL_NUMBER = 2, 1  # CTA_TUPLE_PROTO, CTA_PROTO_NUM
_STATUS, _PROTOCOL_STATE, _TIMEOUT = 3, 4, 7  # CTA_STATUS, CTA_PROTOINFO, CTA_TIMEOUT
_ASSURED = 1 << 1 | 1 << 2 | 1 << 3  # IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
_ESTABLISHED = 3  # TCP_CONNTRACK_ESTABLISHED
_MOST = "/proc/sys/net/netfilter/nf_conntrack_max"
_NOBODY = "192.0.2.1", "192.0.2.2"  # addresses for documentation (RFC 5737)
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

    def occupy(self, entries: int) -> None:
        """Add so many established connections of nobody's. The kernel drops none of them to make room for others."""
        self._netlink.send(_occupant(1024 + number) for number in range(entries))

    def vacate(self) -> None:
        """Undo `occupy`."""
        self.flush({_NOBODY[1]: ()})

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


@contextmanager
def room(entries: int) -> Iterator[None]:
    """Let every namespace have at most so many entries.

    The limit is the machine's, and only its first namespace may set it (net/netfilter/nf_conntrack_standalone.c,
    nf_conntrack_standalone_init_sysctl). Use it only on a machine that runs nothing else: a guest.
    """
    before = _limit(None)
    _limit(entries)
    try:
        yield
    finally:
        _limit(before)


def _limit(entries: int | None) -> int:
    """Return the largest number of entries of a namespace, which becomes `entries` if that is given."""
    try:
        with open(_MOST, "r" if entries is None else "w", encoding="ascii") as file:
            return int(file.read()) if entries is None else file.write(str(entries))
    except OSError as error:
        why = error.strerror or ""
        raise KernelRefused("the size of the connection table cannot be changed", where=_MOST, why=why) from error


def _occupant(port: int) -> Request:
    ends = [(_NOBODY[0], port), (_NOBODY[1], 9)]
    body = b"".join(_tuple(kind, *each) for kind, each in ((_ORIGINAL, ends), (_REPLY, ends[::-1])))
    body += attribute(_STATUS, struct.pack(">I", _ASSURED)) + attribute(_TIMEOUT, struct.pack(">I", 600))
    state = attribute(1 | _NESTED, attribute(1, bytes([_ESTABLISHED])))  # CTA_PROTOINFO_TCP, CTA_PROTOINFO_TCP_STATE
    return Request(_NEW, CREATE | EXCL, _IPV4 + body + attribute(_PROTOCOL_STATE | _NESTED, state))


def _tuple(kind: int, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    ends = source, destination
    addresses = b"".join(attribute(number, socket.inet_aton(each[0])) for number, each in enumerate(ends, 1))
    ports = b"".join(attribute(number, struct.pack(">H", each[1])) for number, each in enumerate(ends, 2))
    protocol = attribute(_PROTOCOL_NUMBER, bytes([socket.IPPROTO_TCP])) + ports
    return attribute(
        kind | _NESTED, attribute(_TUPLE_IP | _NESTED, addresses) + attribute(_TUPLE_PROTOCOL | _NESTED, protocol)
    )


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
