"""nftables in one namespace: rulesets through libnftables, element counters over plain netlink.

A libnftables handle stays bound to the namespace in which it was created, so there is one per namespace. The library is
made for writing: it parses a text, checks it, and sends it as one transaction. It is not used for reading, because it
first copies every element of the namespace into a cache (nft 1.0.2 even to get one). At 1,000 services that costs more
than adding a service.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import distribution, netlink, netns, nft_expressions
from dataplanes.kernel.netlink import APPEND, CREATE, DUMP, Netlink, NetlinkError, Request, attribute, attributes

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NFTABLES = _SUBSYSTEM << 8
_NEW_RULE = _NFTABLES | 6  # NFT_MSG_NEWRULE
_GET_TABLE, _GET_CHAIN, _GET_RULE = _NFTABLES | 1, _NFTABLES | 4, _NFTABLES | 7  # NFT_MSG_GET*
_GET_ELEMENT, _DELETE_ELEMENT, _GET_GENERATION = _NFTABLES | 13, _NFTABLES | 14, _NFTABLES | 16
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_LIST_ELEMENT, _KEY, _DATA, _TIMEOUT, _EXPIRATION, _EXPRESSION = 1, 1, 2, 4, 5, 7  # NFTA_SET_ELEM_*
_EXPRESSION_DATA = 2
_COUNTER_PACKETS = 2
_TABLE_NAME = 1  # NFTA_TABLE_NAME of a table; NFTA_CHAIN_TABLE and NFTA_RULE_TABLE have the same number
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 3, 4, 7  # NFTA_CHAIN_*
_RULE_CHAIN, _RULE_HANDLE, _RULE_USERDATA = 2, 3, 7  # NFTA_RULE_*
_HOOK_NUMBER, _FORWARD = 1, 2  # NFTA_HOOK_HOOKNUM, NF_INET_FORWARD
_GENERATION = 1  # NFTA_GEN_ID
_FAMILIES = {1: "inet", 2: "ip"}
_NUMBERS = {"ip": 2, "bridge": 7}  # NFPROTO_*
_ELEMENTS_AT_ONCE = 512  # in one message, whose attribute of elements may have 64 KiB
_NESTED = 0x8000


OURS = "vip-"
"""The prefix of the names of the planes' tables."""


class Remembered(Struct, frozen=True):
    """An element of a map with time-outs. Key and value have the kernel's form, times are milliseconds."""

    key: bytes
    value: bytes
    timeout: int
    left: int


class Nftables:
    """A libnftables handle of one namespace. Raises Prerequisite if the Python binding is missing."""

    def __init__(self, name: str) -> None:
        self.netns = name
        try:
            with distribution.modules():
                import nftables  # a run without nft planes does not need it
        except ImportError as error:
            raise Prerequisite(
                "libnftables' Python binding is not installed", where=name, fix="apt-get install python3-nftables"
            ) from error
        with netns.inside(name):
            self._handle = nftables.Nftables()
        self._netlink = Netlink(name, netlink.NETFILTER)

    def close(self) -> None:
        """Close the sockets. The ruleset stays. Idempotent."""
        self._handle = None
        self._netlink.close()

    def run(self, text: str) -> None:
        """Carry out nft commands as one transaction. Raises KernelRefused, and then nothing has changed."""
        code, _, error = self._handle.cmd(text)
        if code:
            raise KernelRefused("nft transaction refused", where=self.netns, why=_reason(error))

    def insert(self, table: str, chain: str, expressions: Sequence[bytes]) -> None:
        """Put a rule of expressions (nft_expressions.py) in front of a chain of an IPv4 table."""
        body = _family("ip") + nft_expressions.rule(table, chain, expressions)
        self._netlink.transact(_SUBSYSTEM, Request(_NEW_RULE, CREATE, body))

    def append(self, family: str, table: str, rules: Iterable[tuple[str, Sequence[bytes]]]) -> None:
        """Put rules of expressions at the ends of chains, as one transaction. Each comes with its chain."""
        head = _family(family)
        made = [head + nft_expressions.rule(table, chain, expressions) for chain, expressions in rules]
        self._netlink.transact(_SUBSYSTEM, *(Request(_NEW_RULE, CREATE | APPEND, body) for body in made))

    def packets(
        self, table: str, name: str, keys: Iterable[bytes] | None = None, family: str = "ip"
    ) -> dict[bytes, int]:
        """Return how many packets matched each element of a table's set or map with counters.

        `keys` restricts this to some elements. Keys have the kernel's form: addresses in network order, numbers in the
        machine's. Raises KernelRefused if an element is missing.
        """
        where = _set(family, table, name)
        if keys is None:
            return dict(_packets(self._netlink.dump(_GET_ELEMENT, where, DUMP)))
        found: dict[bytes, int] = {}
        for key in keys:
            query = where + attribute(_ELEMENTS | _NESTED, _element(key))
            found.update(_packets(self._netlink.dump(_GET_ELEMENT, query, 0)))
        return found

    def elements(self, family: str, table: str, name: str) -> list[Remembered]:
        """Return the elements of a map whose elements have time-outs."""
        messages = self._netlink.dump(_GET_ELEMENT, _set(family, table, name), DUMP)
        return [
            Remembered(attributes(each[_KEY])[1], attributes(each[_DATA])[1], _number(each[_TIMEOUT]), left)
            for each in _elements(messages)
            if {_DATA, _TIMEOUT, _EXPIRATION} <= each.keys() and (left := _number(each[_EXPIRATION]))
        ]

    def delete(self, family: str, table: str, keys: Mapping[str, Sequence[bytes]]) -> None:
        """Delete elements of sets and maps, as one transaction: {set: keys}. Raises NetlinkError if one is missing."""
        requests = []
        for name, gone in keys.items():
            where = _set(family, table, name)
            for first in range(0, len(gone), _ELEMENTS_AT_ONCE):
                listed = b"".join(map(_element, gone[first : first + _ELEMENTS_AT_ONCE]))
                requests.append(Request(_DELETE_ELEMENT, 0, where + attribute(_ELEMENTS | _NESTED, listed)))
        if requests:
            self._netlink.transact(_SUBSYSTEM, *requests)

    def generation(self) -> int:
        """Return a number that grows with every transaction in the namespace, whoever makes it."""
        ((_, body),) = self._netlink.dump(_GET_GENERATION, bytes(4), 0)
        return int.from_bytes(attributes(body[4:])[_GENERATION], "big")


def carry_out(name: str, text: str) -> None:
    """Carry out nft commands in a namespace as one transaction, with a handle of their own."""
    handle = Nftables(name)
    try:
        handle.run(text)
    finally:
        handle.close()


class Chains:
    """The chains at the forward hook of a namespace that belong to no plane's table."""

    def __init__(self, name: str) -> None:
        self._netlink = Netlink(name, netlink.NETFILTER)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()

    def forwarding(self, comment: str) -> dict[tuple[str, str, str], list[int]]:
        """Return (family, table, name) of each chain, and the handles of its rules with this comment."""
        if all(name.startswith(OURS) for name in _tables(self._netlink)):
            return {}
        found = {}
        for _, body in self._netlink.dump(_GET_CHAIN, bytes(4)):
            chain = attributes(body[4:])
            table, name = (chain[each].rstrip(b"\0").decode() for each in (_TABLE_NAME, _CHAIN_NAME))
            hook = attributes(chain.get(_CHAIN_HOOK, b"")).get(_HOOK_NUMBER, b"")
            filters = chain.get(_CHAIN_TYPE) == b"filter\0" and int.from_bytes(hook, "big") == _FORWARD
            if body[0] in _FAMILIES and filters and not table.startswith(OURS):
                where = attribute(_TABLE_NAME, chain[_TABLE_NAME]) + attribute(_RULE_CHAIN, chain[_CHAIN_NAME])
                rules = [attributes(rule[4:]) for _, rule in self._netlink.dump(_GET_RULE, body[:4] + where)]
                ours = [each for each in rules if comment.encode() + b"\0" in each.get(_RULE_USERDATA, b"")]
                handles = [int.from_bytes(each[_RULE_HANDLE], "big") for each in ours]
                found[_FAMILIES[body[0]], table, name] = handles
        return found


def tables(name: str) -> list[str]:
    """Return the tables of a namespace, of any family; [] if the kernel has no nftables."""
    wire = Netlink(name, netlink.NETFILTER)
    try:
        return _tables(wire)
    finally:
        wire.close()


def _tables(wire: Netlink) -> list[str]:
    try:
        answers = wire.dump(_GET_TABLE, bytes(4), DUMP)  # AF_UNSPEC
    except NetlinkError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return []
    return [attributes(body[4:])[_TABLE_NAME].rstrip(b"\0").decode() for _, body in answers]


def _family(name: str) -> bytes:
    return struct.pack("=BBH", _NUMBERS[name], 0, 0)  # struct nfgenmsg


def _set(family: str, table: str, name: str) -> bytes:
    return _family(family) + attribute(_TABLE, table.encode() + b"\0") + attribute(_SET, name.encode() + b"\0")


def _element(key: bytes) -> bytes:
    return attribute(_LIST_ELEMENT | _NESTED, attribute(_KEY | _NESTED, attribute(1, key)))


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _elements(messages: Iterable[tuple[int, bytes]]) -> Iterator[dict[int, bytes]]:
    for _, body in messages:
        elements, offset = attributes(body[4:]).get(_ELEMENTS, b""), 0
        while offset + 4 <= len(elements):  # attributes() keeps one of each type, but all of these have the same type
            length = struct.unpack_from("=H", elements, offset)[0]
            yield attributes(elements[offset + 4 : offset + length])
            offset += length + (-length % 4)


def _packets(messages: Iterable[tuple[int, bytes]]) -> Iterator[tuple[bytes, int]]:
    for element in _elements(messages):
        if _EXPRESSION not in element:  # an element of somebody else
            continue
        counter = attributes(attributes(element[_EXPRESSION])[_EXPRESSION_DATA])
        yield attributes(element[_KEY])[1], struct.unpack(">Q", counter[_COUNTER_PACKETS])[0]


def _reason(error: str) -> str:
    """Return the first complaint, and the beginning of its command (which may be a megabyte of elements)."""
    complaint = re.search(r"Error: (?:Could not process rule: )?(.*)", error)
    if not complaint:
        return error.strip()[:200]
    command = error[complaint.end() :].strip().partition("\n")[0]
    return f"{complaint[1]} [{command[:100]}]" if command else complaint[1]
