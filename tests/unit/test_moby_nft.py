"""The layout of moby/moby#53125: its rules, its elements, and the property that its own tests ask of the ranges.

The rules are those of initNFTLBNAT, and the first world is that of TestComposeNFTLB, without published ports.
"""

from __future__ import annotations

import pytest

from dataplanes import filters
from dataplanes.base import Site
from dataplanes.kernel.undo import Undo
from dataplanes.moby_nft import _Maps, base, entries, ranges
from dataplanes.model import Backend, Service
from tests.unit.test_kube_golden import Told

SITE = Site("ns", "net", "n1", "10.0.0.0/16", "input", "snat", "eth0", "10.0.0.9")
OLD = Service("web", "net", "10.0.0.5", (Backend("10.0.1.3"), Backend("10.0.1.9")))
NEW = Service("web", "net", "10.0.0.5", (Backend("10.0.1.3", 0), Backend("10.0.1.9")))
OTHER = Service("other", "net", "10.0.0.6", (Backend("10.0.1.4"),))


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> _Maps:
    monkeypatch.setattr(filters, "Nftables", Told)
    made = _Maps(SITE)
    made.open()
    return made


def told(maps: _Maps) -> list[str]:
    assert isinstance(maps._nft, Told)
    return maps._nft.texts[-1].replace(" ip vip-net", "").splitlines()


def change(maps: _Maps, old: list[Service], new: list[Service]) -> list[str]:
    with Undo() as undo:
        maps.change(entries(old), entries(new), undo)
    return told(maps)


def test_the_rules_are_those_of_the_pull_request() -> None:
    key = "numgen random mod 65536"
    # `ip protocol` is the one difference: see the module
    assert [line.replace(" ip vip-net", "").replace("ip protocol", "meta l4proto") for line in base(SITE)] == [
        "create table",
        f"add map nat-service-vip {{ typeof ip daddr . {key} : ip daddr; flags interval; counter; }}",
        f"add map nat-publish-port {{ typeof meta l4proto . th dport . {key} : ip daddr; flags interval; counter; }}",
        "add chain prerouting { type nat hook prerouting priority -100; policy accept; }",
        "add chain postrouting { type nat hook postrouting priority 100; policy accept; }",
        f"add rule prerouting dnat to ip daddr . {key} map @nat-service-vip",
        f"add rule prerouting dnat to meta l4proto . th dport . {key} map @nat-publish-port",
        "add rule postrouting ct status dnat counter masquerade",
    ]


def test_the_elements_are_those_of_the_pull_request() -> None:
    assert list(entries([OLD])) == [
        ("nat-service-vip", "10.0.0.5 . 0-32767 : 10.0.1.3"),
        ("nat-service-vip", "10.0.0.5 . 32768-65535 : 10.0.1.9"),
    ]
    assert list(entries([NEW])) == [("nat-service-vip", "10.0.0.5 . 0-65535 : 10.0.1.9")]
    assert list(entries([Service("web", "net", "10.0.0.5")])) == []


@pytest.mark.parametrize("count", [*range(1, 10), 250, 1000])
def test_the_ranges_cover_every_number_once(count: int) -> None:
    found = list(ranges(count))
    assert [number for first, last in found for number in (first, last + 1)][1:-1] == [
        number for first, _ in found[1:] for number in (first, first)
    ]
    assert (found[0][0], found[-1][1]) == (0, 65_535)
    sizes = [last + 1 - first for first, last in found]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_every_change_writes_all_elements_again(maps: _Maps) -> None:
    change(maps, [], [OLD, OTHER])
    assert change(maps, [OLD], [NEW]) == [
        "delete element nat-service-vip { 10.0.0.5 . 0-32767, 10.0.0.5 . 32768-65535, 10.0.0.6 . 0-65535 }",
        "add element nat-service-vip { 10.0.0.5 . 0-65535 : 10.0.1.9, 10.0.0.6 . 0-65535 : 10.0.1.4 }",
    ]
    maps.restore()
    assert told(maps)[-1] == (
        "add element nat-service-vip { 10.0.0.5 . 0-65535 : 10.0.1.9, 10.0.0.6 . 0-65535 : 10.0.1.4 }"
    )
    assert change(maps, [NEW, OTHER], []) == [
        "delete element nat-service-vip { 10.0.0.5 . 0-65535, 10.0.0.6 . 0-65535 }"
    ]
    counted = {each.kind: each.objects for each in maps.footprint()}
    assert counted == {"nft chains": 2, "nft rules": 3, "nft sets": 2, "nft elements": 0}


def test_a_statement_is_no_longer_than_nft_takes(maps: _Maps) -> None:
    many = [Service(f"s{n}", "net", f"10.1.{n >> 8}.{n & 255}", (Backend("10.0.1.4"),)) for n in range(2500)]
    assert [line.count(" : ") for line in change(maps, [], many)] == [1000, 1000, 500]
