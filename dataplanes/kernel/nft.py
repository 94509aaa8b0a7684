"""nftables in one namespace: rulesets through libnftables, element counters over plain netlink.

A libnftables handle stays bound to the namespace it was made in, so there is one per namespace. Writing is what it is
for: it parses a text, checks it, and sends it as one transaction. Reading through it is not: it first copies every
element of the namespace into a cache (nft 1.0.2 even to get one), which at 1,000 services costs more than adding one.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable, Iterator

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import netlink, netns
from dataplanes.kernel.netlink import DUMP, Netlink, NetlinkError, attribute, attributes

_GET_TABLE, _GET_ELEMENT = 10 << 8 | 1, 10 << 8 | 13  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE, NFT_MSG_GETSETELEM
_IPV4 = struct.pack("=BBH", 2, 0, 0)  # struct nfgenmsg
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_LIST_ELEMENT, _KEY, _EXPRESSION, _EXPRESSION_DATA = 1, 1, 7, 2
_COUNTER_PACKETS = 2
_TABLE_NAME = 1  # NFTA_TABLE_NAME
_NESTED = 0x8000


class Nftables:
    """A libnftables handle of one namespace. Raises Prerequisite where the Python binding is missing."""

    def __init__(self, name: str) -> None:
        self.netns = name
        try:
            import nftables  # the distribution's; a run without nft planes does without it
        except ImportError as error:
            raise Prerequisite(
                "libnftables' Python binding is not installed", where=name, fix="apt-get install python3-nftables"
            ) from error
        with netns.inside(name):
            self._handle = nftables.Nftables()
        self._netlink = Netlink(name, netlink.NETFILTER)

    def close(self) -> None:
        """Release the sockets; the ruleset stays. Idempotent."""
        self._handle = None
        self._netlink.close()

    def run(self, text: str) -> None:
        """Carry out nft commands as one transaction. Raises KernelRefused, and then nothing has changed."""
        code, _, error = self._handle.cmd(text)
        if code:
            raise KernelRefused("nft transaction refused", where=self.netns, why=_reason(error))

    def packets(self, table: str, name: str, keys: Iterable[bytes] | None = None) -> dict[bytes, int]:
        """How many packets matched each element (or each of the given) of an IPv4 table's set or map with counters.

        Keys are as the kernel has them: addresses in network order, numbers in the machine's. Raises KernelRefused
        where one is not there.
        """
        where = _IPV4 + attribute(_TABLE, table.encode() + b"\0") + attribute(_SET, name.encode() + b"\0")
        if keys is None:
            return dict(_packets(self._netlink.dump(_GET_ELEMENT, where, DUMP)))
        found: dict[bytes, int] = {}
        for key in keys:
            element = attribute(_LIST_ELEMENT | _NESTED, attribute(_KEY | _NESTED, attribute(1, key)))
            query = where + attribute(_ELEMENTS | _NESTED, element)
            found.update(_packets(self._netlink.dump(_GET_ELEMENT, query, 0)))
        return found


def tables(name: str) -> list[str]:
    """The tables of a namespace, of any family; none where the kernel has no nftables."""
    wire = Netlink(name, netlink.NETFILTER)
    try:
        answers = wire.dump(_GET_TABLE, bytes(4), DUMP)  # AF_UNSPEC
    except NetlinkError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return []
    finally:
        wire.close()
    return [attributes(body[4:])[_TABLE_NAME].rstrip(b"\0").decode() for _, body in answers]


def _packets(messages: Iterable[tuple[int, bytes]]) -> Iterator[tuple[bytes, int]]:
    for _, body in messages:
        elements, offset = attributes(body[4:]).get(_ELEMENTS, b""), 0
        while offset + 4 <= len(elements):  # attributes() keeps one of each type, here all are of the same
            length = struct.unpack_from("=H", elements, offset)[0]
            element = attributes(elements[offset + 4 : offset + length])
            counter = attributes(attributes(element[_EXPRESSION])[_EXPRESSION_DATA])
            yield attributes(element[_KEY])[1], struct.unpack(">Q", counter[_COUNTER_PACKETS])[0]
            offset += length + (-length % 4)


def _reason(error: str) -> str:
    """The first complaint, and the beginning of the command it is about (which may be a megabyte of elements)."""
    complaint = re.search(r"Error: (?:Could not process rule: )?(.*)", error)
    if not complaint:
        return error.strip()[:200]
    command = error[complaint.end() :].strip().partition("\n")[0]
    return f"{complaint[1]} [{command[:100]}]" if command else complaint[1]
