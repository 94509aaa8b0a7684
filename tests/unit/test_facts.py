"""The kernel's listings are read as facts: IPVS's services, and the addresses of a namespace."""

from __future__ import annotations

import pytest

from bench.inside import facts
from dataplanes.kernel import process

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


RULESET = """table ip vip-my-network { # handle 1
\tmap backends { # handle 2
\t\ttype ipv4_addr . integer : ipv4_addr
\t}

\tchain rr-1-8 { # handle 23
\t\tdnat to ip daddr . numgen inc mod 1 map @backends # handle 24
\t}

\tchain nat-prerouting { # handle 3
\t\ttype nat hook prerouting priority dstnat; policy accept;
\t\tnumgen random mod 2 vmap { 0 : goto one,
\t\t\t\t\t 1 : goto two } # handle 5
\t}
}
table bridge other { # handle 2
\tchain c { # handle 1
\t\taccept # handle 24
\t}
}
"""


def test_the_rules_of_a_ruleset_are_read_with_their_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", lambda *asked: RULESET)
    dnat = "dnat to ip daddr . numgen inc mod 1 map @backends # handle 24"
    assert list(facts._listed("ns")) == [
        ("vip-my-network rr-1-8", 24, dnat),
        ("vip-my-network nat-prerouting", 5, "numgen random mod 2 vmap { 0 : goto one, 1 : goto two } # handle 5"),
        ("other c", 24, "accept # handle 24"),
    ]
