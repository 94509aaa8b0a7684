"""Rules of nftables as the kernel has them: lists of expressions that pass values on in registers.

Some rules have no form in nft's language: those that look up several values at once, and those that write a header
beyond the fields that the language knows. The kernel can change any bytes of a packet and any checksum with them
(net/netfilter/nft_payload.c, nft_payload_set_eval).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dataplanes.kernel.netlink import attribute

LINK, NETWORK, TRANSPORT = 0, 1, 2  # NFT_PAYLOAD_*_HEADER
ACCEPT, JUMP, GOTO = 1, -3, -4  # NF_ACCEPT, NFT_JUMP, NFT_GOTO
PROTOCOL, MARK = 1, 3  # NFT_META_PROTOCOL, NFT_META_MARK
VERDICT = -8  # NFT_REG_VERDICT, as the target of a look-up whose values are verdicts
_REGISTER = 8  # NFT_REG32_00: registers of four bytes, 16 in all
_NAME, _DATA, _ELEMENT = 1, 2, 1  # NFTA_EXPR_*, NFTA_LIST_ELEM
_DREG, _BASE, _OFFSET, _LENGTH, _SREG, _CSUM_TYPE, _CSUM_OFFSET, _CSUM_FLAGS = range(1, 9)  # NFTA_PAYLOAD_*
_CMP_SREG, _CMP_OP, _CMP_DATA = 1, 2, 3  # NFTA_CMP_*
_EQUAL, _UNEQUAL = 0, 1  # NFT_CMP_*
_BITWISE_SREG, _BITWISE_DREG, _BITWISE_LENGTH, _BITWISE_MASK, _BITWISE_XOR = range(1, 6)  # NFTA_BITWISE_*
_LOOKUP_SET, _LOOKUP_SREG, _LOOKUP_DREG, _LOOKUP_FLAGS, _INVERTED = 1, 2, 3, 5, 1  # NFTA_LOOKUP_*, NFT_LOOKUP_F_INV
_DYNSET_NAME, _DYNSET_OP, _DYNSET_KEY, _DYNSET_DATA, _DYNSET_TIMEOUT = 1, 3, 4, 5, 6  # NFTA_DYNSET_*
_UPDATE, _DELETE = 1, 2  # NFT_DYNSET_OP_*
_META_DREG, _META_KEY, _META_SREG = 1, 2, 3  # NFTA_META_*
_IMMEDIATE_DREG, _IMMEDIATE_DATA, _VERDICT_REGISTER = 1, 2, 0  # NFTA_IMMEDIATE_*, NFT_REG_VERDICT
_VALUE, _VERDICT, _CODE, _CHAIN = 1, 2, 1, 2  # NFTA_DATA_*, NFTA_VERDICT_*
_INTERNET_CHECKSUM, _PSEUDO_HEADER = 1, 1  # NFT_PAYLOAD_CSUM_INET, NFT_PAYLOAD_L4CSUM_PSEUDOHDR
_NESTED = 0x8000


def load(base: int, offset: int, length: int, register: int = 0) -> bytes:
    """Return the expression that copies bytes of a header into a register and, if they are more, the next ones."""
    return _expression(b"payload", {_DREG: _REGISTER + register, _BASE: base, _OFFSET: offset, _LENGTH: length})


def meta(key: int, register: int = 0) -> bytes:
    """Return the expression that copies what the kernel knows of a packet into a register."""
    return _expression(b"meta", {_META_DREG: _REGISTER + register, _META_KEY: key})


def set_meta(key: int, register: int) -> bytes:
    """Return the expression that changes what the kernel knows of a packet."""
    return _expression(b"meta", {_META_SREG: _REGISTER + register, _META_KEY: key})


def store(base: int, offset: int, length: int, register: int = 0, *, checksum: int = -1, pseudo: bool = False) -> bytes:
    """Return the expression that writes registers into a header.

    It brings the checksum at `checksum` in the same header up to date and, with `pseudo`, that of the transport header.
    """
    numbers = {_SREG: _REGISTER + register, _BASE: base, _OFFSET: offset, _LENGTH: length}
    if checksum >= 0:
        numbers |= {_CSUM_TYPE: _INTERNET_CHECKSUM, _CSUM_OFFSET: checksum}
    if pseudo:
        numbers |= {_CSUM_FLAGS: _PSEUDO_HEADER}
    return _expression(b"payload", numbers)


def same(value: bytes, register: int = 0) -> bytes:
    """Return the expression that goes on only if a register has this value."""
    return _compare(_EQUAL, value, register)


def other(value: bytes, register: int = 0) -> bytes:
    """Return the expression that goes on only if a register has another value."""
    return _compare(_UNEQUAL, value, register)


def masked(mask: bytes, register: int = 0) -> bytes:
    """Return the expression that clears the bits of a register that are not in the mask."""
    numbers = {_BITWISE_SREG: _REGISTER + register, _BITWISE_DREG: _REGISTER + register, _BITWISE_LENGTH: len(mask)}
    return _expression(b"bitwise", numbers, _value(_BITWISE_MASK, mask) + _value(_BITWISE_XOR, bytes(len(mask))))


def equal(base: int, offset: int, value: bytes) -> bytes:
    """Return the expressions that go on only if the packet has these bytes there."""
    return load(base, offset, len(value)) + same(value)


def copy(base: int, source: int, target: int, length: int, checksum: int) -> bytes:
    """Return the expressions that copy bytes of a header, and bring the checksum at `checksum` up to date."""
    return load(base, source, length) + store(base, target, length, checksum=checksum)


def look_up(name: str, key: int, into: int | None = None, *, absent: bool = False) -> bytes:
    """Return the expression that goes on only if a set has the key that begins in a register or, `absent`, has it not.

    A map's value is copied into the registers that begin with `into`.
    """
    numbers = {_LOOKUP_SREG: _REGISTER + key}
    if into is not None:
        numbers |= {_LOOKUP_DREG: _REGISTER + into}
    if absent:
        numbers |= {_LOOKUP_FLAGS: _INVERTED}
    return _expression(b"lookup", numbers, attribute(_LOOKUP_SET, name.encode() + b"\0"))


def remember(name: str, key: int, value: int | None, seconds: int) -> bytes:
    """Return the expression that adds an element, or renews the one that has this key, which keeps its value.

    `value` is for maps. The rule ends if there is no room for the element.
    """
    return _dynset(name, _UPDATE, key, value, attribute(_DYNSET_TIMEOUT, struct.pack(">Q", seconds * 1000)))


def forget(name: str, key: int, value: int) -> bytes:
    """Return the expression that removes an element of a map, if there is one.

    The value is not looked at, but the kernel wants to be told a register.
    """
    return _dynset(name, _DELETE, key, value, b"")


def constant(value: bytes, register: int) -> bytes:
    """Return the expression that puts a constant into a register."""
    return _expression(b"immediate", {_IMMEDIATE_DREG: _REGISTER + register}, _value(_IMMEDIATE_DATA, value))


def verdict(code: int, chain: str = "") -> bytes:
    """Return the expression that ends the rule: the packet is accepted, or goes to a chain."""
    target = attribute(_CHAIN, chain.encode() + b"\0") if chain else b""
    made = attribute(_VERDICT | _NESTED, _number(_CODE, code & 0xFFFFFFFF) + target)
    return _expression(b"immediate", {_IMMEDIATE_DREG: _VERDICT_REGISTER}, attribute(_IMMEDIATE_DATA | _NESTED, made))


def rule(table: str, chain: str, expressions: Sequence[bytes]) -> bytes:
    """Return the attributes of NFT_MSG_NEWRULE."""
    names = attribute(1, table.encode() + b"\0") + attribute(2, chain.encode() + b"\0")  # NFTA_RULE_TABLE, _CHAIN
    return names + attribute(4 | _NESTED, b"".join(expressions))  # NFTA_RULE_EXPRESSIONS


def _dynset(name: str, operation: int, key: int, value: int | None, more: bytes) -> bytes:
    numbers = {_DYNSET_OP: operation, _DYNSET_KEY: _REGISTER + key}
    if value is not None:
        numbers |= {_DYNSET_DATA: _REGISTER + value}
    return _expression(b"dynset", numbers, attribute(_DYNSET_NAME, name.encode() + b"\0") + more)


def _compare(operation: int, value: bytes, register: int) -> bytes:
    return _expression(b"cmp", {_CMP_SREG: _REGISTER + register, _CMP_OP: operation}, _value(_CMP_DATA, value))


def _value(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, attribute(_VALUE, value))


def _expression(name: bytes, numbers: dict[int, int], more: bytes = b"") -> bytes:
    data = b"".join(_number(kind, value) for kind, value in numbers.items()) + more
    return attribute(_ELEMENT | _NESTED, attribute(_NAME, name + b"\0") + attribute(_DATA | _NESTED, data))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))
