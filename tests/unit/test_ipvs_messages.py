"""The IPVS requests that are packed by hand are byte for byte what pyroute2 encodes."""

from __future__ import annotations

from typing import Any

from pyroute2.netlink.generic.ipvs import ipvsmsg

from dataplanes.kernel.ipvs import DIRECT_ROUTE, MASQUERADE, destination_body, service_body


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
