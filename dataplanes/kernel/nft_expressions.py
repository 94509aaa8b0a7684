"""The expressions of an nftables rule that nft's language does not have, as the kernel takes them.

nft changes only the checksum that belongs to a field it knows. The kernel can change any bytes of a packet and any
checksum with them (net/netfilter/nft_payload.c, nft_payload_set_eval).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dataplanes.kernel.netlink import attribute

NETWORK, TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_REGISTER = 1  # NFT_REG_1
_NAME, _DATA, _ELEMENT = 1, 2, 1  # NFTA_EXPR_*, NFTA_LIST_ELEM
_DREG, _BASE, _OFFSET, _LENGTH, _SREG, _CSUM_TYPE, _CSUM_OFFSET = range(1, 8)  # NFTA_PAYLOAD_*
_CMP_SREG, _CMP_OP, _CMP_DATA, _EQUAL = 1, 2, 3, 0  # NFTA_CMP_*, NFT_CMP_EQ
_VALUE = 1  # NFTA_DATA_VALUE
_INTERNET_CHECKSUM = 1  # NFT_PAYLOAD_CSUM_INET
_NESTED = 0x8000


def equal(base: int, offset: int, value: bytes) -> bytes:
    """Return the expressions that go on only if the packet has these bytes there."""
    compare = _number(_CMP_SREG, _REGISTER) + _number(_CMP_OP, _EQUAL)
    return _load(base, offset, len(value)) + _expression(
        b"cmp", compare + attribute(_CMP_DATA | _NESTED, attribute(_VALUE, value))
    )


def copy(base: int, source: int, target: int, length: int, checksum: int) -> bytes:
    """Return the expressions that copy bytes of a header, and bring the checksum at `checksum` up to date."""
    numbers = {
        _SREG: _REGISTER,
        _BASE: base,
        _OFFSET: target,
        _LENGTH: length,
        _CSUM_TYPE: _INTERNET_CHECKSUM,
        _CSUM_OFFSET: checksum,
    }
    store = b"".join(_number(kind, value) for kind, value in numbers.items())
    return _load(base, source, length) + _expression(b"payload", store)


def rule(table: str, chain: str, expressions: Sequence[bytes]) -> bytes:
    """Return the attributes of NFT_MSG_NEWRULE."""
    names = attribute(1, table.encode() + b"\0") + attribute(2, chain.encode() + b"\0")  # NFTA_RULE_TABLE, _CHAIN
    return names + attribute(4 | _NESTED, b"".join(expressions))  # NFTA_RULE_EXPRESSIONS


def _load(base: int, offset: int, length: int) -> bytes:
    numbers = {_DREG: _REGISTER, _BASE: base, _OFFSET: offset, _LENGTH: length}
    return _expression(b"payload", b"".join(_number(kind, value) for kind, value in numbers.items()))


def _expression(name: bytes, data: bytes) -> bytes:
    return attribute(_ELEMENT | _NESTED, attribute(_NAME, name + b"\0") + attribute(_DATA | _NESTED, data))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))
