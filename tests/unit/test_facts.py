"""The kernel's listings are read as facts: IPVS's services, and the addresses of a namespace."""

from __future__ import annotations

import pytest

from bench.inside import facts

IPVS = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  00000101 rr
  -> 0A000003:0000      Masq    1      0          1
  -> 0A000004:0000      Masq    1      0          0
TCP  0A000008:0050 rr
UDP  [2001:0db8:0000:0000:0000:0000:0000:0001]:0035 rr
  -> [2001:0db8:0000:0000:0000:0000:0000:0002]:0035      Masq    1      0          0
"""
TRIE = """Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.0
           /24 link UNICAST
        |-- 10.0.0.8
           /32 host LOCAL
        |-- 10.0.0.255
           /32 link BROADCAST
"""


def test_the_services_of_ipvs_are_read_by_mark_and_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_content", lambda path: IPVS)
    assert list(facts._services()) == [("mark 0x101", "10.0.0.3:0, 10.0.0.4:0"), ("tcp 10.0.0.8:80", "")]


def test_a_namespace_without_ipvs_has_no_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_content", lambda path: "")
    assert list(facts._services()) == []


def test_only_local_addresses_are_found_in_the_routes() -> None:
    assert facts._LOCAL.findall(TRIE) == ["10.0.0.8"]
