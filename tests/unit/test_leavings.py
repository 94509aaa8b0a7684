"""What the check of a removed service's leavings sees of a ruleset."""

from __future__ import annotations

from scenarios.checks.leavings import leading, nft_parts

_ONE, _OTHER = (
    "10.0.0.2 counter packets 7 bytes 420 : goto rr-3-2",
    "10.0.0.8 counter packets 1 bytes 60 : goto rr-1-8",
)
RULESET = """table ip vip-my-network {
    map services {
        type ipv4_addr : verdict
        counter
        elements = { ONE,
                     OTHER }
    }

    chain nat-postrouting {
        ct status dnat counter packets 3 bytes 180 masquerade
    }
}
""".replace("ONE", _ONE).replace("OTHER", _OTHER)


def test_an_element_or_a_rule_with_a_counter_is_seen() -> None:
    whole = set(nft_parts(RULESET))
    assert {"10.0.0.2 counter : goto rr-3-2", "10.0.0.8 counter : goto rr-1-8"} <= whole
    assert "ct status dnat counter masquerade" in whole


def test_what_traffic_has_counted_is_no_difference() -> None:
    assert set(nft_parts(RULESET.replace("packets 7 bytes 420", "packets 8 bytes 480"))) == set(nft_parts(RULESET))


def test_the_order_of_elements_is_no_difference() -> None:
    other = RULESET.replace(_ONE, "first").replace(_OTHER, _ONE).replace("first", _OTHER)
    assert set(nft_parts(other)) == set(nft_parts(RULESET))


_REMOVED = ("10.0.0.14", ["10.0.0.15", "10.0.0.16"])


def test_an_entry_from_the_vip_to_a_backend_is_found_in_every_writing() -> None:
    """They are those of conntrack, IPVS and Open vSwitch."""
    left = [
        "ipv4 2 udp 17 28 src=10.0.0.7 dst=10.0.0.14 sport=4 dport=80 src=10.0.0.15 dst=10.0.0.7 sport=80 dport=4",
        "TCP 0A000007 D903 0A00000E 0050 0A000010 0050 TIME_WAIT 119",
        "udp,orig=(src=10.0.0.7,dst=10.0.0.14,sport=4,dport=80),reply=(src=10.0.0.15,dst=10.0.0.7,sport=80,dport=4),zone=3",
    ]
    others = [line.replace("10.0.0.14", "10.0.0.24").replace("0A00000E", "0A000018") for line in left]
    others += [line.replace("10.0.0.15", "10.0.0.5").replace("0A000010", "0A000005") for line in left]
    assert len([*leading(left, _REMOVED)]) == 3
    assert not [*leading(others, _REMOVED)]
