"""The cause of a failed request is found in what was recorded of it, and its place is named by the last line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bench.analysis.story import story
from bench.documents.tracing import Fact, Followed
from bench.report.story import lines
from dataplanes.follower import Sighting
from tests.conftest import ROOT
from tests.unit.test_story import BACKEND, CLIENT, followed, recorded, seen

CAUSES = msgspec.toml.decode((ROOT / "tests" / "lab" / "causes.toml").read_bytes(), type=dict[str, str])


def met(name: str) -> Followed:
    return recorded(str(Path("faults", name.replace(" ", "-"))))


@pytest.mark.parametrize("name", CAUSES)
def test_the_last_line_names_the_place_of_the_cause(name: str) -> None:
    assert list(lines(story(met(name))))[-1] == f"the cause is at {CAUSES[name]}"


@pytest.mark.parametrize("name", CAUSES)
def test_the_story_of_a_failure_fits_a_screen(name: str) -> None:
    assert len(list(lines(story(met(name))))) <= 24


def test_the_page_shows_the_cause_of_a_planted_fault() -> None:
    page = (ROOT / "docs" / "trace.md").read_text("utf-8")
    assert f"\nthe cause is at {CAUSES['neighbour entry missing']}\n" in page


def test_a_request_that_is_sent_again_is_a_packet_of_its_own() -> None:
    request = next(way for way in story(met("SNAT dropped")).ways if way.direction == "request")
    assert (request.what, request.others, len(request.steps)) == ("SYN", 1, 2)


def test_an_icmp_error_that_a_packet_becomes_is_a_packet_of_its_own() -> None:
    request, error = story(met("MTU too small")).ways
    assert (request.end.kind, request.end.function) == ("lost", "vxlan_xmit")
    assert (error.direction, error.what) == ("error", "ICMP fragmentation needed")


def explained(*sightings: Sighting, facts: Sequence[Fact] = (), **more: Any) -> str:
    """Return the explanation of a flow without an answer, with its place."""
    flow = replace(followed(*sightings), answered=False, source="", facts=list(facts), origin="client", **more)
    found = story(flow).cause
    assert found
    return f"{found.namespace} {found.device} {found.hook}: {found.why}"


def test_an_answer_has_no_cause() -> None:
    assert story(followed(seen("tcp_v4_rcv"))).cause is None


def test_a_flow_without_packets_is_explained_by_what_the_client_got() -> None:
    assert explained(answer="Network is unreachable") == "client  : no packet was sent: Network is unreachable"


def test_a_segment_to_a_closed_port_is_explained_by_its_address() -> None:
    path = seen("tcp_v4_rcv", destination=BACKEND), seen("kfree_skb", destination=BACKEND, reason="NO_SOCKET")
    told = explained(*path)
    assert told == "ns eth0 : nobody listens at 10.0.0.9:80"


@pytest.mark.parametrize(
    ("facts", "there"),
    [
        ([], "which is in no namespace"),
        ([Fact("lb", "address", "10.0.0.8", "worker1")], "which is in lb"),
        # The owner is on the same node, so that no entry of the VXLAN device is missing.
        (
            [Fact("lb", "address", "10.0.0.8", "worker1"), Fact("worker1.net", "mtu", "vxlan0", "1450")],
            "which is in lb",
        ),
    ],
)
def test_an_unanswered_arp_request_is_explained_by_the_owner(facts: list[Fact], there: str) -> None:
    path = seen("br_forward", namespace="worker1.net"), seen("kfree_skb", reason="NEIGH_FAILED")
    assert explained(*path, facts=facts) == f"ns eth0 : nobody answered ARP for 10.0.0.8, {there}"


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (["tcp drop # handle 2", "accept # handle 3"], "a rule of the nft chain own f drops it: tcp drop # handle 2"),
        (["udp drop # handle 2", "tcp drop # handle 3"], "nft own f drops it"),
        ([], "nft own f drops it"),
    ],
)
def test_a_rule_is_told_if_only_one_of_its_chain_drops(rules: list[str], why: str) -> None:
    path = (
        seen("nf_hook_slow", hook="FORWARD", destination=BACKEND),
        seen("nft_do_chain", hook="FORWARD", ruleset="own f", destination=BACKEND),
        seen("kfree_skb", reason="NETFILTER_DROP", destination=BACKEND),
    )
    told = explained(*path, facts=[Fact("ns", "rule", "own f", rule) for rule in rules])
    assert told.startswith(f"ns eth0 FORWARD: {why}")


def test_a_reply_past_a_program_on_an_interface_is_explained_there() -> None:
    request = seen("netif_receive_skb"), seen("tcp_v4_rcv", destination=BACKEND, namespace="server")
    reply: dict[str, Any] = {"source": BACKEND, "destination": CLIENT, "packet": 2, "namespace": "client"}
    told = explained(*request, seen("tcp_v4_rcv", **reply), seen("kfree_skb", reason="NO_SOCKET", **reply))
    assert told == (
        "ns eth0 tc ingress: the request leaves with the source 10.0.0.7:40001, so the answer does not come back here"
    )


def test_what_the_kernel_gives_no_known_reason_for_is_told_as_it_is() -> None:
    dropped = seen("kfree_skb", destination=BACKEND, reason="IP_CSUM", function="f")
    told = explained(seen("ip_rcv", destination=BACKEND), dropped)
    assert told == "ns eth0 : IP_CSUM in f"


def test_the_rule_that_has_dropped_a_packet_is_told_where_several_could() -> None:
    rules = ["tcp dport 81 drop # handle 2", "ip protocol tcp drop # handle 3"]
    told = explained(
        seen("nf_hook_slow", hook="PREROUTING"),
        seen("nft_do_chain", hook="PREROUTING", ruleset="own early"),
        seen("nft_immediate_eval", hook="PREROUTING", ruleset="own early", rule=3),
        seen("kfree_skb", reason="NETFILTER_DROP", function="nf_hook_slow"),
        facts=[Fact("ns", "rule", "own early", rule, number) for number, rule in enumerate(rules, 2)],
    )
    assert told == f"ns eth0 PREROUTING: a rule of the nft chain own early drops it: {rules[1]}"
