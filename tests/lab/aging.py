"""Days that pass for a single connection.

To be idle for five days takes a guest twenty minutes even under the instruction clock. So the time for which each
tracker would still remember the connection is shortened instead.
"""

from __future__ import annotations

import struct
from contextlib import closing

from msgspec.structs import replace

from dataplanes.bridge_connections import written
from dataplanes.bridge_rules import BACK, FORTH
from dataplanes.ebpf import Ebpf
from dataplanes.ebpf_connections import Connections
from dataplanes.ebpf_services import ServiceTable
from dataplanes.kernel import netlink
from dataplanes.kernel.netlink import Netlink, Request, attribute, attributes
from dataplanes.kernel.nft import OURS, Nftables, tables
from dataplanes.nft_bridge import NftBridge
from dataplanes.placed import PlacedPlane
from scenarios.lab import Lab
from tests.lab.segments import Flow

_NEW, _GET = 1 << 8 | 0, 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_IPV4 = struct.pack("=BBH", 2, 0, 0)  # struct nfgenmsg
_ORIGINAL, _TIMEOUT, _PORTS, _SOURCE = 1, 7, 2, 2  # CTA_TUPLE_ORIG, CTA_TIMEOUT, CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT
_NESTED = 0x8000
_UNTIL = struct.Struct("=Q")
_UNTIL_AT = 16  # in an entry of ebpf-tc, after its key


def age(lab: Lab, flow: Flow, seconds: int) -> None:
    """Make the connection older by so much, for connection tracking in every namespace, ebpf-tc and nft-bridge."""
    for _, _, name in lab.namespaces():
        with closing(Netlink(name, netlink.NETFILTER)) as wire:
            entries = [attributes(body[4:]) for _, body in wire.dump(_GET, _IPV4)]
            wire.send(_older(entry, seconds) for entry in entries if _port(entry) == flow.port)
        if isinstance(_mechanism(lab), NftBridge):
            _age_at_bridge(name, flow, seconds)
    for connections in _tables(lab):
        ends, flows = connections._maps["ends"], connections._maps["flows"]
        for place in {place for key, place in ends.items() if key[8:10] == struct.pack(">H", flow.port)}:
            ((_, entry),) = flows.get([place])
            (until,) = _UNTIL.unpack_from(entry, _UNTIL_AT)
            until = _UNTIL.pack(max(0, until - seconds * 10**9))
            flows.update([(place, entry[:_UNTIL_AT] + until + entry[_UNTIL_AT + _UNTIL.size :])])


def _age_at_bridge(name: str, flow: Flow, seconds: int) -> None:
    nft = Nftables(name)
    try:
        for table in {each for each in tables(name) if each.startswith(OURS)}:
            for each in (*FORTH, *BACK):
                aged = [
                    replace(element, left=max(1, element.left - seconds * 1000))
                    for element in nft.elements("bridge", table, each)
                    if struct.pack(">H", flow.port) in (element.key[8:10], element.key[12:14])
                ]
                nft.delete("bridge", table, {each: [element.key for element in aged]})
                for element in aged:
                    nft.run(f"add element bridge {table} {each} {{ {written(element)} }}")
    finally:
        nft.close()


def _port(entry: dict[int, bytes]) -> int:
    return int.from_bytes(attributes(attributes(entry[_ORIGINAL])[_PORTS]).get(_SOURCE, b""), "big")


def _older(entry: dict[int, bytes], seconds: int) -> Request:
    left = struct.pack(">I", max(1, int.from_bytes(entry[_TIMEOUT], "big") - seconds))
    return Request(_NEW, 0, _IPV4 + attribute(_ORIGINAL | _NESTED, entry[_ORIGINAL]) + attribute(_TIMEOUT, left))


def _mechanism(lab: Lab) -> object:
    assert isinstance(lab.plane, PlacedPlane)
    return lab.plane._mechanism


def _tables(lab: Lab) -> list[Connections]:
    mechanism = _mechanism(lab)
    tables = mechanism._tables.values() if isinstance(mechanism, Ebpf) else ()
    serving = [table for table in tables if isinstance(table, ServiceTable)]
    return [table.connections for table in serving if table.connections]
