"""The bridge's ruleset: what the kernel is sent, and the connections that userspace reads from it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pytest

from dataplanes.base import Site
from dataplanes.bridge_connections import BridgeConnections
from dataplanes.bridge_rules import BACK, CLOSING, FORTH, rules
from dataplanes.bridge_ruleset import BridgeRuleset
from dataplanes.errors import KernelRefused
from dataplanes.kernel.netlink import NetlinkError, attributes
from dataplanes.kernel.nft import Nftables, Remembered
from dataplanes.kernel.nft_expressions import NETWORK, TRANSPORT
from tests.unit.test_nft_rules import golden, steps

A, B, C, D = (f"10.0.0.{number}" for number in (3, 4, 5, 8))
VIP, CLIENT = "10.0.0.2", "10.0.0.7"
SITE = Site("ns", "overlay1", "worker1", "10.0.0.0/24", "frame", "hairpin-snat", "br0", "10.0.0.1")


def test_the_life_of_a_bridge() -> None:
    bridge = BridgeRuleset(SITE, "rr", 65_536)
    text = steps(
        bridge,
        {"10.0.0.2": (C, A, B), "10.0.0.6": (D,)},
        {"10.0.0.2": (C, B)},
        {"10.0.0.6": ()},
        {"10.0.0.2": None, "10.0.0.6": None},
    )
    golden("frame", f"{text}\n{bridge.ready()}\n")


def test_the_rules_that_are_no_text() -> None:
    golden("frame-rules", "".join(f"{chain} {b''.join(made).hex()}\n" for chain, made in rules()))


def test_stations_come_change_and_go() -> None:
    bridge = BridgeRuleset(SITE, "rr", 65_536)
    assert bridge.acquaint({A: "02:42:0a:00:00:03"}) == (
        "add element bridge vip-overlay1 macs { 10.0.0.3 : 02:42:0a:00:00:03 }"
    )
    bridge.macs = {A: "02:42:0a:00:00:03", B: "02:42:0a:00:00:04"}
    assert bridge.acquaint(bridge.macs) == ""
    assert bridge.acquaint({A: "02:42:00:00:00:01"}).splitlines() == [
        "delete element bridge vip-overlay1 macs { 10.0.0.3, 10.0.0.4 }",
        "add element bridge vip-overlay1 macs { 10.0.0.3 : 02:42:00:00:00:01 }",
    ]
    assert bridge.anew({}).count("10.0.0.4 : 02:42:0a:00:00:04") == 1


def test_every_chain_that_a_rule_leads_to_is_made_and_every_map_that_it_names() -> None:
    base = BridgeRuleset(SITE, "rr", 65_536).base()
    for name, made in rules():
        assert f"add chain bridge vip-overlay1 {name}" in base
        for expression in made:
            kind, data = attributes(expression[4:])[1], attributes(attributes(expression[4:])[2])
            if kind == b"lookup\0":
                assert f" {data[1].rstrip(bytes(1)).decode()} {{" in base


def test_what_every_segment_passes_has_the_forms_that_the_kernel_does_fastest() -> None:
    """See nft_payload_select_ops and nft_bitwise_select_ops: the others take four times as many instructions."""
    loads = masks = 0
    for name, made in rules():
        if name not in ("frames", "to-vip", "to-client"):
            continue
        for kind, data in parts(b"".join(made)):
            if kind == "payload" and 1 in data:  # 1: a load, into this register
                base, offset, length = (int.from_bytes(data[each], "big") for each in (2, 3, 4))
                assert base in (NETWORK, TRANSPORT)
                assert length in (1, 2, 4)
                assert not offset % length
                loads += 1
            if kind == "bitwise":
                assert int.from_bytes(data[3], "big") == 4
                masks += 1
    assert loads
    assert masks


def parts(made: bytes) -> Iterator[tuple[str, dict[int, bytes]]]:
    """Yield the kind and the attributes of each expression of a rule."""
    while made:
        length = int.from_bytes(made[:2], sys.byteorder)
        each = attributes(made[4:length])
        yield each[1].rstrip(bytes(1)).decode(), attributes(each[2])
        made = made[-(-length // 4) * 4 :]


def key(destination: str, source: str, dport: int, sport: int) -> bytes:
    return b"".join((socket.inet_aton(destination), socket.inet_aton(source), *map(number, (dport, sport))))


def number(port: int) -> bytes:
    return port.to_bytes(2, "big") + bytes(2)


def value(mac: str, *other: Any) -> bytes:
    return bytes.fromhex(mac.replace(":", "")) + bytes(2) + key(*other)


class Table:
    """A kernel's maps. Some elements expire just before they are deleted."""

    netns = "ns"

    def __init__(self, maps: Mapping[str, list[Remembered]], expire: int = 0) -> None:
        self.maps = {name: list(maps.get(name, ())) for name in (*FORTH, *BACK)}
        self.expire = expire

    def elements(self, family: str, table: str, name: str) -> list[Remembered]:
        return self.maps[name]

    def delete(self, family: str, table: str, keys: Mapping[str, Sequence[bytes]]) -> None:
        if self.expire:
            self.expire -= 1
            raise NetlinkError(2, 0, "ns", "No such file or directory")
        for name, gone in keys.items():
            self.maps[name] = [each for each in self.maps[name] if each.key not in gone]


def connections(backend: str, sport: int, forth: str = "tcp-requests") -> dict[str, list[Remembered]]:
    to_vip = key(VIP, CLIENT, 80, sport), value("02:42:0a:00:00:03", CLIENT, backend, sport, 80)
    to_client = key(CLIENT, backend, sport, 80), value("02:42:0a:00:00:07", VIP, CLIENT, 80, sport)
    return {forth: [Remembered(*to_vip, 120_000, 432_000_000)], "tcp-replies": [Remembered(*to_client, 120_000, 5)]}


def opened(table: Table) -> tuple[BridgeConnections, list[None]]:
    ours: list[None] = []
    return BridgeConnections(cast(Nftables, table), "bridge", "vip-n", lambda: ours.append(None)), ours


@pytest.mark.parametrize("forth", ["tcp-requests", CLOSING])
def test_connections_to_backends_that_are_gone_are_deleted_in_both_directions(forth: str) -> None:
    table = Table(connections(A, 40_000, forth))
    made, ours = opened(table)
    assert made.count() == 1
    assert made.flush({VIP: {A}, "10.0.0.6": set()}) == 0
    assert not ours
    assert made.flush({VIP: {B}}) == 1
    assert made.count() == 0
    assert not any(table.maps.values())
    assert len(ours) == 1


def test_elements_that_expire_meanwhile_are_no_error() -> None:
    made, _ = opened(Table(connections(A, 40_000), expire=3))
    assert made.flush({VIP: ()}) == 1
    made, _ = opened(Table(connections(A, 40_000), expire=99))
    with pytest.raises(KernelRefused, match="20 times in a row"):
        made.flush({VIP: ()})


def test_connections_are_written_for_another_table() -> None:
    made, _ = opened(Table(connections(A, 40_000)))
    assert list(made.commands()) == [
        "add element bridge vip-n tcp-requests { 10.0.0.2 . 10.0.0.7 . 80 . 40000 timeout 5d0s0ms expires 5d0s0ms"
        " : 02:42:0a:00:00:03 . 10.0.0.7 . 10.0.0.3 . 40000 . 80 }",
        "add element bridge vip-n tcp-replies { 10.0.0.7 . 10.0.0.3 . 40000 . 80 timeout 0d120s0ms expires 0d0s5ms"
        " : 02:42:0a:00:00:07 . 10.0.0.2 . 10.0.0.7 . 80 . 40000 }",
        "add element bridge vip-n clients { 10.0.0.7 timeout 365d0s0ms }",
    ]
