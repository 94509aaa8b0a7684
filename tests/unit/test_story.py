"""The story of a flow is told from its sightings: those that were recorded, and such as are made up here."""

from __future__ import annotations

import gzip
import itertools
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bench.analysis.story import story
from bench.documents.tracing import Followed, Hop, Story, Way
from bench.report.story import difference, lines, table
from dataplanes.follower import PLACES, Sighting
from tests.conftest import ROOT

RECORDED = ROOT / "tests" / "flows"
CLIENT, VIP, BACKEND, BALANCER = "10.0.0.7:40001", "10.0.0.8:80", "10.0.0.9:80", "10.0.0.14:40001"


TIMES = itertools.count(1)


def seen(place: str, source: str = CLIENT, destination: str = VIP, packet: int = 1, **more: Any) -> Sighting:
    told: dict[str, Any] = {"copy": packet, "namespace": "ns", "device": "eth0"} | more
    return Sighting(next(TIMES), place, packet, source=source, destination=destination, **told)


def followed(*sightings: Sighting) -> Followed:
    return Followed("p", "c", CLIENT, "s", VIP, "tcp", "", True, VIP, list(sightings))


def ways(*sightings: Sighting) -> list[Way]:
    return story(followed(*sightings)).ways


def only(*sightings: Sighting) -> Hop:
    (way,) = ways(*sightings)
    (hop,) = way.steps
    return hop


def test_a_rewrite_is_of_the_function_that_the_packet_entered_last_and_at_the_hook_around_it() -> None:
    hop = only(
        seen("nf_hook_slow", hook="PREROUTING"),
        seen("nft_do_chain", hook="PREROUTING", ruleset="vip nat-prerouting", tracked="new"),
        seen("nf_nat_manip_pkt", tracked="new"),
        seen("ip_forward", destination=BACKEND),
    )
    assert (hop.hook, hop.by) == ("PREROUTING", "nft vip nat-prerouting")
    assert (hop.before, hop.after) == ([CLIENT, VIP], [CLIENT, BACKEND])


def test_an_icmp_error_is_translated_by_the_connection_that_it_tells_of() -> None:
    (way,) = ways(
        seen("nf_hook_slow", icmp=3, hook="PREROUTING"),
        seen("ip_forward", destination=BACKEND, icmp=3, tracked="related reply"),
    )
    assert (way.direction, way.steps[0].by) == ("error", "NAT, its connection")


def test_a_command_begins_several_flows_and_each_request_is_one() -> None:
    flow = followed(
        seen("ip_output", namespace="c"),
        seen("tcp_v4_rcv", destination=BACKEND),
        seen("ip_output", source=BACKEND, destination=CLIENT, packet=2),
        seen("ip_output", source="10.0.0.7:40002", packet=3, namespace="c"),
    )
    found = story(replace(flow, command=["curl", "s"], vip="10.0.0.8")).ways
    assert [way.direction for way in found] == ["request", "reply", "request"]


def test_later_packets_of_a_connection_are_rewritten_by_its_entry_and_not_by_a_rule() -> None:
    hop = only(
        seen("nf_hook_slow", hook="POSTROUTING"),
        seen("nft_do_chain", hook="POSTROUTING", ruleset="other filter"),
        seen("nf_nat_manip_pkt", tracked="established"),
        seen("__dev_queue_xmit", source=BALANCER),
    )
    assert (hop.hook, hop.by) == ("POSTROUTING", "NAT, its connection")


@pytest.mark.parametrize(
    ("place", "hook", "by"),
    [
        ("netif_receive_skb", "tc ingress", "BPF program"),
        ("__dev_queue_xmit", "tc egress", "BPF program"),
        ("nft_do_chain", "bridge PREROUTING", "nft vip bridge"),
        ("ip_vs_nat_xmit", "INPUT", "IPVS"),
    ],
)
def test_each_kind_of_place_has_its_hook_and_its_name(place: str, hook: str, by: str) -> None:
    around = seen("nf_hook_slow", hook=hook) if not hook.startswith("tc") else seen("ip_rcv")
    more: dict[str, Any] = {"hook": hook, "ruleset": "vip bridge"} if place == "nft_do_chain" else {}
    hop = only(around, seen(place, **more), seen("br_forward", destination=BACKEND))
    assert (hop.hook, hop.by) == (hook, by)


@pytest.mark.parametrize(("place", "hook"), [("netif_receive_skb", "tc ingress"), ("__dev_queue_xmit", "tc egress")])
def test_a_classifier_is_on_the_way_in_or_out(place: str, hook: str) -> None:
    hop = only(seen(place), seen("tcf_classify"), seen("br_forward", destination=BACKEND))
    assert (hop.hook, hop.by) == (hook, "BPF program")


def test_a_hook_ends_where_the_packet_goes_on() -> None:
    hop = only(
        seen("nf_hook_slow", hook="POSTROUTING"),
        seen("__dev_queue_xmit"),
        seen("net_dev_queue", destination=BACKEND),
    )
    assert hop.hook == "tc egress"


def test_a_socket_that_is_told_another_address_is_the_first_rewrite() -> None:
    asked = seen("__cgroup_bpf_run_filter_sock_addr", source="0.0.0.0:40001", packet=0, hook="inet4_connect", device="")
    (way,) = ways(asked, seen("nf_hook_slow", destination=BACKEND), seen("tcp_v4_rcv", destination=BACKEND))
    assert [(hop.hook, hop.before, hop.after) for hop in way.steps] == [
        ("inet4_connect", [CLIENT, VIP], [CLIENT, BACKEND])
    ]
    assert way.destination == VIP


def test_a_socket_that_is_told_the_vip_as_source_is_the_last_rewrite() -> None:
    reply = seen("udp_rcv", source=BACKEND, destination=CLIENT, packet=2)
    told = seen("__cgroup_bpf_run_filter_sock_addr", destination=BACKEND, packet=0, hook="udp4_recvmsg", device="")
    (_, way) = ways(seen("udp_rcv", destination=BACKEND), reply, told)
    assert [(hop.hook, hop.before, hop.after) for hop in way.steps] == [
        ("udp4_recvmsg", [BACKEND, CLIENT], [VIP, CLIENT])
    ]


def test_the_answer_is_told_from_the_request_and_later_packets_are_counted() -> None:
    found = ways(
        seen("tcp_v4_rcv", destination=BACKEND),
        seen("tcp_v4_rcv", source=BACKEND, destination=CLIENT, packet=2),
        seen("tcp_v4_rcv", destination=BACKEND, packet=3),
    )
    assert [(way.direction, way.others) for way in found] == [("request", 1), ("reply", 0)]


def test_a_packet_in_the_memory_of_one_that_has_arrived_is_another_one() -> None:
    found = ways(
        seen("tcp_v4_rcv", destination=BACKEND),
        seen("nf_hook_slow", source=BACKEND, destination=CLIENT, hook="OUTPUT"),
        seen("tcp_v4_rcv", source=BACKEND, destination=CLIENT),
        seen("ip_output", destination=BACKEND, copy=7),
        seen("kfree_skb", destination=BACKEND, copy=7, reason="NO_SOCKET"),
    )
    assert [(way.direction, way.end.kind) for way in found] == [
        *(("request", "arrived"), ("reply", "arrived"), ("request", "dropped"))
    ]


def test_a_flooded_frame_arrives_once_and_its_copies_do_not_count_as_dropped() -> None:
    (way,) = ways(
        seen("br_forward", device="vxlan0"),
        seen("netif_receive_skb", copy=2, namespace="other"),
        seen("kfree_skb", copy=2, namespace="other", reason="OTHERHOST", function="ip_rcv_core"),
        seen("tcp_v4_rcv", namespace="backend"),
    )
    assert (way.end.kind, way.end.namespace) == ("arrived", "backend")


def test_a_drop_is_told_with_its_place_its_reason_and_its_function() -> None:
    found = story(
        followed(
            seen("nf_hook_slow", hook="FORWARD"),
            seen("nft_do_chain", hook="FORWARD", ruleset="own forward"),
            seen("kfree_skb", reason="NETFILTER_DROP", function="nf_hook_slow"),
        )
    )
    assert found.ways[0].end.kind == "dropped"
    last = "  ns eth0 FORWARD                               DROPPED: NETFILTER_DROP in nf_hook_slow  [nft own forward]"
    assert last in lines(found)


def test_a_drop_after_a_hook_is_not_told_as_the_rules() -> None:
    (way,) = ways(
        seen("nf_hook_slow", hook="POSTROUTING"),
        seen("nft_do_chain", hook="POSTROUTING", ruleset="vip nat-postrouting"),
        seen("kfree_skb", reason="NEIGH_FAILED", function="arp_error_report"),
    )
    assert (way.end.reason, way.end.hook, way.end.by) == ("NEIGH_FAILED", "", "")


def test_a_segment_that_no_socket_takes_is_dropped_and_not_arrived() -> None:
    (way,) = ways(seen("tcp_v4_rcv"), seen("kfree_skb", reason="NO_SOCKET", function="tcp_v4_rcv"))
    assert (way.end.kind, way.end.reason) == ("dropped", "NO_SOCKET")


def test_an_echo_that_a_raw_socket_has_taken_is_not_dropped() -> None:
    (way,) = ways(seen("icmp_rcv", icmp=0), seen("kfree_skb", icmp=0, reason="NO_SOCKET", function="icmp_rcv"))
    assert way.end.kind == "arrived"


def test_an_echo_request_that_is_dropped_where_it_arrives_is_dropped() -> None:
    (way,) = ways(seen("icmp_rcv", icmp=8), seen("kfree_skb", icmp=8, reason="ICMP_CSUM", function="icmp_rcv"))
    assert (way.end.kind, way.end.reason) == ("dropped", "ICMP_CSUM")


def test_a_packet_that_is_seen_no_more_is_lost_where_it_was_seen_last() -> None:
    (way,) = ways(seen("ip_rcv"), seen("nf_hook_slow", hook="INPUT", device="br0"))
    assert (way.end.kind, way.end.device, way.end.function) == ("lost", "br0", "nf_hook_slow")


def test_an_icmp_error_is_no_answer() -> None:
    (_, way) = ways(seen("udp_rcv"), seen("icmp_rcv", source=VIP, destination=CLIENT, packet=2, icmp=3))
    assert (way.direction, way.what) == ("error", "ICMP network unreachable")


def test_two_planes_part_at_their_first_rewrite_that_differs() -> None:
    def at(hook: str) -> Story:
        return story(followed(seen("nf_hook_slow", hook=hook), seen("ip_output", destination=BACKEND)))

    assert list(difference(at("OUTPUT"), at("OUTPUT"))) == ["p and p rewrite the same at the same places"]
    head, one, other = difference(at("OUTPUT"), at("PREROUTING"))
    assert (head, "OUTPUT" in one, "PREROUTING" in other) == ("the first difference is in the request:", True, True)
    nothing = story(followed(seen("tcp_v4_rcv")))
    assert list(difference(at("OUTPUT"), nothing))[-1] == "  p: nothing more is rewritten"


def test_what_the_kernel_had_no_room_for_is_told() -> None:
    told = story(Followed("p", "c", CLIENT, "s", VIP, "tcp", "nothing for 5 s", False, "", [seen("tcp_v4_rcv")], 12))
    assert list(lines(told))[-3:] == [
        "12 sightings were lost: the kernel had no room for them, so the story may lack lines",
        "c got nothing for 5 s",
        "the cause is at ns eth0: the last packet arrived here, and nothing came after it",
    ]


def test_places_are_named_once_and_the_tracepoints_come_first() -> None:
    names = [each.name for each in PLACES]
    assert len(set(names)) == len(names) <= 64
    assert names[:3] == ["netif_receive_skb", "net_dev_queue", "kfree_skb"]  # trace.c has these numbers


def recorded(name: str) -> Followed:
    data = gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes())
    return msgspec.json.decode(data, type=Followed)


def test_the_page_shows_what_was_recorded() -> None:
    page = (ROOT / "docs" / "trace.md").read_text("utf-8")
    assert "\n".join(lines(story(recorded("page")))) in page


def test_a_usual_story_fits_a_screen() -> None:
    for path in RECORDED.glob("*.json.gz"):
        told = list(lines(story(recorded(path.name.removesuffix(".json.gz")))))
        assert len(told) <= 24, path.name


def test_the_fragments_of_a_datagram_are_told_until_they_are_joined() -> None:
    last: dict[str, Any] = {"packet": 2, "namespace": "lb"}
    first, second, third = ways(
        seen("nf_hook_slow", hook="OUTPUT"),
        seen("net_dev_queue", fragment=0),
        seen("net_dev_queue", packet=2, fragment=1424),
        seen("ip_rcv", namespace="lb", fragment=0),
        seen("ip_rcv", fragment=1424, **last),
        seen("nf_hook_slow", hook="PREROUTING", **last),  # the last fragment has become the datagram
        seen("nft_do_chain", hook="PREROUTING", ruleset="vip nat-prerouting", tracked="new", **last),
        seen("nf_nat_manip_pkt", tracked="new", **last),
        seen("ip_output", destination=BACKEND, **last),
        seen("net_dev_queue", destination=BACKEND, fragment=0, **last),
        seen("net_dev_queue", destination=BACKEND, copy=9, fragment=1424, **last),
        seen("udp_rcv", destination=BACKEND, packet=2, namespace="server"),
    )
    assert [step.kind for step in first.steps] == ["divided", "joined", "rewritten", "divided", "joined"]
    assert (first.end.kind, first.end.namespace) == ("arrived", "server")
    assert (second.what, second.direction, second.end.kind) == ("fragment from byte 1,424", "request", "joined")
    assert third.end.kind == "joined"


def test_the_ways_of_planes_stand_side_by_side_and_the_first_difference_is_marked() -> None:
    found = list(table([story(recorded(name)) for name in ("page", "nft-overlay", "page")]))
    assert found[0].split() == ["nft-lb", "nft-overlay", "nft-lb"]
    assert [line for line in found if line.startswith("!")] == [found[1]]
    there = "lb.worker2.my-network eth0 PREROUTING", "worker2.my-network br0 PREROUTING"
    assert found[1].split("   ")[0] == f"! request  {there[0]}".split("   ")[0]
    assert all(place in found[1] for place in there)
    assert found[2].count("to 10.0.0.8:80 -> 10.0.0.9:80") == 3


def test_planes_that_do_the_same_have_no_mark() -> None:
    assert not [line for line in table([story(recorded("page"))] * 2) if line.startswith("!")]


def test_a_way_that_ends_before_the_others_is_marked_where_they_go_on() -> None:
    whole = story(recorded("page"))
    (request, *others) = whole.ways
    short = replace(whole, ways=[replace(request, steps=request.steps[:1]), *others])
    assert [line.split()[1] for line in table([whole, short]) if line.startswith("!")] == [request.steps[1].namespace]


def test_fragments_that_are_flooded_are_joined_where_they_arrive() -> None:
    """The last one that is seen is the copy of another container, which drops it."""
    there: dict[str, Any] = {"namespace": "backend", "copy": 3}
    other: dict[str, Any] = {"namespace": "other", "copy": 1}
    found = ways(
        seen("br_forward", fragment=0, namespace="a"),
        seen("nf_hook_slow", fragment=0, **there),
        seen("kfree_skb", fragment=0, reason="OTHERHOST", **other),
        seen("br_forward", packet=2, fragment=1424, namespace="a"),
        seen("nf_hook_slow", packet=2, fragment=1424, namespace="backend", copy=4),
        seen("udp_rcv", packet=2, namespace="backend", copy=4),
        seen("kfree_skb", packet=2, fragment=1424, reason="OTHERHOST", namespace="other"),
    )
    assert [(way.end.kind, way.end.namespace) for way in found] == [("arrived", "backend"), ("joined", "backend")]
    assert [(hop.kind, hop.namespace) for hop in found[0].steps] == [("joined", "backend")]


def test_the_state_of_connection_tracking_is_told_at_each_rewrite_and_at_the_end() -> None:
    found = followed(
        seen("nf_hook_slow", hook="PREROUTING", tracked="new"),
        seen("nft_do_chain", hook="PREROUTING", ruleset="vip nat", tracked="new"),
        seen("nf_nat_manip_pkt", tracked="new"),
        seen("tcp_v4_rcv", destination=BACKEND, tracked="established"),
    )
    said = "\n".join(lines(story(found)))
    assert f"to {VIP} -> {BACKEND}  [nft vip nat; ct new]\n" in said
    assert "arrived  [ct established]\n" in said
    dropped = followed(seen("nf_hook_slow", hook="INPUT"), seen("kfree_skb", reason="NO_SOCKET", tracked="new"))
    assert "DROPPED: NO_SOCKET in   [ct new]" in "\n".join(lines(story(dropped)))


def test_a_packet_of_others_in_the_memory_of_one_that_has_arrived_is_not_told() -> None:
    others: dict[str, Any] = {"source": "192.168.99.102:37526", "destination": "192.168.99.101:7946"}
    found = ways(
        seen("tcp_v4_rcv", destination=BACKEND),
        seen("nf_hook_slow", hook="OUTPUT", **others),
        seen("tcp_v4_rcv", **others),
        seen("tcp_v4_rcv", source=BACKEND, destination=CLIENT, packet=2),
    )
    assert [(way.direction, way.source) for way in found] == [("request", CLIENT), ("reply", BACKEND)]
