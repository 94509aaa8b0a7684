"""What has rewritten a packet is told: a rule, a service of IPVS, or a program with the element that it looked up."""

from __future__ import annotations

from msgspec.structs import replace

from bench.analysis.story import story
from bench.documents.tracing import Fact, Namespace, Story
from bench.report.story import lines
from dataplanes.elements import Decisive
from tests.unit.test_story import BACKEND, BALANCER, CLIENT, VIP, followed, only, seen, ways


def translated_by_a_rule(*facts: Fact) -> Story:
    flow = followed(
        seen("nf_hook_slow", hook="PREROUTING"),
        seen("nft_do_chain", hook="PREROUTING", ruleset="vip nat-prerouting", tracked="new"),
        seen("nft_nat_eval", hook="PREROUTING", ruleset="vip picked", rule=24, tracked="new"),
        seen("nf_nat_manip_pkt", tracked="new"),
        seen("ip_forward", destination=BACKEND),
    )
    return story(replace(flow, facts=list(facts)))


def test_the_rule_that_has_rewritten_a_packet_is_told_with_the_chain_that_has_it() -> None:
    text = "dnat to ip daddr map @backends # handle 24"
    told = translated_by_a_rule(Fact("ns", "rule", "vip picked", text, 24))
    ((hop,),) = (way.steps for way in told.ways)
    assert (hop.hook, hop.by, hop.rules) == ("PREROUTING", "nft vip picked", [text])
    assert f"      by the rule: {text}" in lines(told)


def test_a_rule_that_was_gone_when_rules_were_read_is_told_by_its_number() -> None:
    ((hop,),) = (way.steps for way in translated_by_a_rule().ways)
    assert hop.rules == ["number 24"]


def test_a_long_rule_is_shortened_in_the_text_and_keeps_its_end() -> None:
    text = f"{'ip daddr 10.0.0.8 ' * 20}dnat to 10.0.0.9 # handle 24"
    told = translated_by_a_rule(Fact("ns", "rule", "vip picked", text, 24))
    (line,) = (each for each in lines(told) if "by the rule" in each)
    assert len(line) < 130
    assert line.endswith("dnat to 10.0.0.9 # handle 24")


def test_a_rule_acts_on_what_the_packet_met_before_and_not_on_what_it_meets_afterwards() -> None:
    (way,) = ways(
        seen("nf_hook_slow", hook="PREROUTING"),
        seen("ipt_do_table", hook="PREROUTING", ruleset="nat", tracked="new"),
        seen("xt_dnat_target_v2", hook="PREROUTING", ruleset="nat", rule=700, tracked="new"),
        seen("nf_nat_manip_pkt", tracked="new"),
        seen("ip_forward", destination=BACKEND),
        seen("nf_hook_slow", hook="POSTROUTING", destination=BACKEND),
        seen("ipt_do_table", hook="POSTROUTING", destination=BACKEND, ruleset="nat", tracked="new"),
        seen("nf_nat_manip_pkt", destination=BACKEND, tracked="new"),
        seen("__dev_queue_xmit", source=BALANCER, destination=BACKEND),
    )
    assert [(hop.by, hop.rules) for hop in way.steps] == [("iptables nat", ["number 700"]), ("iptables nat", [])]


def test_a_rule_that_is_evaluated_before_connection_tracking_is_not_of_nat() -> None:
    hop = only(
        seen("nf_hook_slow", hook="PREROUTING"),
        seen("nft_do_chain", hook="PREROUTING", ruleset="own raw"),
        seen("nf_nat_manip_pkt", tracked="new"),
        seen("ip_forward", destination=BACKEND),
    )
    assert hop.by == "NAT, its connection"


def test_ipvs_is_told_with_what_selects_its_service() -> None:
    facts = [Fact("ns", "ipvs", "mark 0x101", BACKEND), Fact("ns", "ipvs", f"tcp {VIP}", BACKEND)]
    for more, by in (({"mark": 0x101}, "IPVS, mark 0x101"), ({"protocol": "tcp"}, f"IPVS, tcp {VIP}"), ({}, "IPVS")):
        flow = followed(seen("ip_vs_nat_xmit", **more), seen("ip_output", destination=BACKEND))
        (way,) = story(replace(flow, facts=facts)).ways
        assert way.steps[0].by == by


def at_a_program(*elements: Decisive) -> Story:
    """Return a story in which a program rewrites two packets of a connection, and a later fragment."""
    flow = followed(
        seen("netif_receive_skb", protocol="udp"),
        seen("udp_rcv", destination=BACKEND, protocol="udp"),
        seen("netif_receive_skb", protocol="udp", packet=2),
        seen("kfree_skb", destination=BACKEND, protocol="udp", packet=2, reason="NO_SOCKET"),
        seen("netif_receive_skb", protocol="udp", packet=3, fragment=1424),
        seen("ip_rcv", destination=BACKEND, protocol="udp", packet=3, fragment=1424),
    )
    facts = [Fact("ns", "program", "eth0 tc ingress", "from_container")]
    return story(replace(flow, facts=facts, elements=list(elements), namespaces=[Namespace("ns", "overlay", "node")]))


def test_a_program_is_told_by_its_name_with_the_element_that_explains_what_it_did() -> None:
    ends = [CLIENT, VIP], [CLIENT, BACKEND]
    addresses = ["10.0.0.7", "10.0.0.8"], ["10.0.0.7", "10.0.0.9"]
    told = at_a_program(
        Decisive("node", "a turn", *ends, "udp", "first"),
        Decisive("node", "a connection", *ends, "udp", "later"),
        Decisive("node", "a fragment", *addresses, "udp", "fragment"),
        Decisive("node", "of a socket", ["", VIP], ["", BACKEND]),
        Decisive("node", "another transport", *ends, "tcp"),
        Decisive("other", "another node", *ends),
        Decisive("node", "another backend", [CLIENT, VIP], [CLIENT, "10.0.0.10:80"]),
    )
    hops = [hop for way in told.ways for hop in way.steps]
    assert [hop.by for hop in hops] == ["BPF program from_container"] * 3
    first, later, fragment = (hop.elements for hop in hops)
    assert (first, later) == (["a turn", "of a socket"], ["a connection", "of a socket"])
    assert fragment == ["a fragment"]
    assert "      by the element: a turn" in lines(told)


def test_a_program_without_an_element_that_explains_it_is_told_alone() -> None:
    hops = [hop for way in at_a_program().ways for hop in way.steps]
    assert {tuple(hop.elements) for hop in hops} == {()}
