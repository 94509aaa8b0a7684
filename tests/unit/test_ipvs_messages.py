"""The IPVS requests that are packed by hand are byte for byte what pyroute2 encodes."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.generic.ipvs import ipvsmsg

from dataplanes.kernel.ipvs import (
    DIRECT_ROUTE,
    MASQUERADE,
    Listener,
    ServiceKey,
    destination_body,
    read_key,
    service_body,
)
from dataplanes.kernel.netlink import attributes


def decode(body: bytes) -> Any:
    header = (len(body) + 20).to_bytes(4, "little") + b"\x20\0\0\0" + bytes(8)
    message = ipvsmsg(header + b"\x01\x01\0\0" + body)
    message.decode()
    return message


def test_service() -> None:
    service = decode(service_body(0x101, "rr")).get_attr("IPVS_CMD_ATTR_SERVICE")
    assert service.get_attr("IPVS_SVC_ATTR_AF") == 2
    assert service.get_attr("IPVS_SVC_ATTR_FWMARK") == 0x101
    assert service.get_attr("IPVS_SVC_ATTR_SCHED_NAME") == "rr"
    assert service.get_attr("IPVS_SVC_ATTR_TIMEOUT") == 0
    assert service.get_attr("IPVS_SVC_ATTR_NETMASK") == "255.255.255.255"
    flags = service.get_attr("IPVS_SVC_ATTR_FLAGS")
    assert (flags["flags"], flags["mask"]) == (0, 0xFFFFFFFF)


def test_destination() -> None:
    for forward in (MASQUERADE, DIRECT_ROUTE):
        message = decode(destination_body(0x101, "10.0.0.5", forward, 1))
        assert message.get_attr("IPVS_CMD_ATTR_SERVICE").get_attr("IPVS_SVC_ATTR_FWMARK") == 0x101
        destination = message.get_attr("IPVS_CMD_ATTR_DEST")
        assert destination.get_attr("IPVS_DEST_ATTR_ADDR") == "10.0.0.5"
        assert destination.get_attr("IPVS_DEST_ATTR_PORT") == 0
        assert destination.get_attr("IPVS_DEST_ATTR_FWD_METHOD") == forward
        assert destination.get_attr("IPVS_DEST_ATTR_WEIGHT") == 1


@pytest.mark.parametrize(("protocol", "number"), [("tcp", 6), ("udp", 17), ("sctp", 132)])
def test_a_service_of_a_port(protocol: str, number: int) -> None:
    key = Listener(protocol, "10.0.0.2", 8080)
    service = decode(service_body(key, "rr")).get_attr("IPVS_CMD_ATTR_SERVICE")
    assert service.get_attr("IPVS_SVC_ATTR_AF") == 2
    assert service.get_attr("IPVS_SVC_ATTR_PROTOCOL") == number
    assert service.get_attr("IPVS_SVC_ATTR_ADDR") == "10.0.0.2"
    assert service.get_attr("IPVS_SVC_ATTR_PORT") == 8080
    assert service.get_attr("IPVS_SVC_ATTR_FWMARK") is None
    destination = decode(destination_body(key, "10.0.0.5", MASQUERADE, 2)).get_attr("IPVS_CMD_ATTR_DEST")
    assert destination.get_attr("IPVS_DEST_ATTR_PORT") == 8080
    assert destination.get_attr("IPVS_DEST_ATTR_WEIGHT") == 2


@pytest.mark.parametrize("key", [0x101, Listener("tcp", "10.0.0.2", 80), Listener("sctp", "10.0.255.2", 65535)])
def test_a_key_is_read_as_it_was_written(key: ServiceKey) -> None:
    assert read_key(attributes(attributes(service_body(key, "rr"))[1])) == key
