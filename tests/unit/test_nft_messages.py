"""The netlink messages that the nft planes use themselves, without a kernel. Requests are compared with pyroute2's."""

from __future__ import annotations

import struct

from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from dataplanes.kernel.conntrack import _delete, _sent_to
from dataplanes.kernel.netlink import attribute, attributes
from dataplanes.kernel.nft import _packets, _reason

ADDRESSES = attribute(1, bytes((10, 0, 0, 7))) + attribute(2, bytes((10, 0, 0, 2)))
ENDPOINTS = attribute(1 | 0x8000, ADDRESSES) + attribute(2 | 0x8000, attribute(1, b"\x06"))


def decode(body: bytes) -> nfct_msg:
    message = nfct_msg((len(body) + 16).to_bytes(4, "little") + b"\x02\x01\0\0" + bytes(8) + body)
    message.decode()
    return message


def test_deletion_names_the_connection_and_its_id() -> None:
    request = _delete({1: ENDPOINTS, 12: b"\0\0\0\x09", 18: b"\0\x05"})
    message = decode(request.body)
    assert (request.kind, message["nfgen_family"]) == (0x102, 2)
    endpoints = message.get_attr("CTA_TUPLE_ORIG")
    assert endpoints.get_attr("CTA_TUPLE_IP").get_attr("CTA_IP_V4_DST") == "10.0.0.2"
    assert endpoints.get_attr("CTA_TUPLE_IP").get_attr("CTA_IP_V4_SRC") == "10.0.0.7"
    assert message.get_attr("CTA_ID") == 9
    assert attributes(request.body[4:])[18] == b"\0\x05"


def test_the_kernel_is_asked_for_one_destination() -> None:
    message = decode(b"\x02\0\0\0" + _sent_to(bytes((10, 0, 0, 2))))
    addresses = message.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_IP")
    assert addresses.get_attr("CTA_IP_V4_DST") == "10.0.0.2"
    assert addresses.get_attr("CTA_IP_V4_SRC") is None
    flags = attributes(attributes(_sent_to(bytes(4)))[25])  # CTA_FILTER
    assert flags == {1: struct.pack("=I", 2), 2: bytes(4)}


def element(key: bytes, packets: int) -> bytes:
    counted = attribute(1, struct.pack(">Q", packets * 60)) + attribute(2, struct.pack(">Q", packets))
    counter = attribute(1, b"counter\0") + attribute(2 | 0x8000, counted)
    return attribute(1 | 0x8000, attribute(1 | 0x8000, attribute(1, key)) + attribute(7 | 0x8000, counter))


def test_every_element_of_every_message_is_counted() -> None:
    keys = [bytes((10, 0, 0, 2)) + struct.pack("=I", slot) for slot in range(3)]
    header = b"\x02\0\0\0" + attribute(1, b"table\0")
    first = header + attribute(3 | 0x8000, element(keys[0], 7) + element(keys[1], 0))
    second = header + attribute(3 | 0x8000, element(keys[2], 1 << 40))
    empty = header
    assert dict(_packets([(1, first), (1, second), (1, empty)])) == {keys[0]: 7, keys[1]: 0, keys[2]: 1 << 40}


def test_a_refusal_is_told_in_one_short_line() -> None:
    command = "add element ip t services { " + ", ".join(f"10.0.{i}.1 : goto rr-1-1" for i in range(9999)) + " }"
    text = f"internal:0:0-0: Error: Could not process rule: File exists\n\n{command}\n{'^' * 80}\n"
    assert _reason(text) == f"File exists [{command[:100]}]"
    assert _reason("Error: cache initialization failed: Operation not permitted\n") == (
        "cache initialization failed: Operation not permitted"
    )
    assert _reason("what?\n") == "what?"
