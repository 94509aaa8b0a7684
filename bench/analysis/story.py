"""The story of a flow, made of its sightings in the kernel.

Nothing in the kernel tells that a packet's addresses are changed. But a packet is seen wherever something can change
it, so a change was made by what it entered last before it is seen with other addresses.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, zip_longest
from operator import attrgetter, itemgetter
from typing import Literal

from msgspec.structs import replace

from bench.analysis.cause import Trail, cause
from bench.documents.tracing import Followed, Hop, Passage, Story, Way, WayEnd
from dataplanes.follower import FLOODED, Sighting

_CONNECTING = "__cgroup_bpf_run_filter_sock_addr"
_TELLING = ("recvmsg", "getpeername")
_BY_CGROUP = "BPF program of the cgroup"
_ARRIVALS = ("tcp_v4_rcv", "udp_rcv", "icmp_rcv")
_TRANSLATION, _CLASSIFIER = "nf_nat_manip_pkt", "tcf_classify"
_BY_FUNCTION = {
    "ip_vs_nat_xmit": "IPVS",
    "ip_vs_in_hook": "IPVS",
    "ip_vs_out_hook": "IPVS",
    "ip_vs_dr_xmit": "IPVS, direct routing",
}
_RULESETS = {"nft_do_chain": "nft", "ipt_do_table": "iptables"}
_SENT_ON = ("ip_vs_dr_xmit",)
Services = dict[str, list[str]]
"""Namespace -> what selects each service of IPVS there."""
_HOOKS = {"netif_receive_skb": "tc ingress", "__dev_queue_xmit": "tc egress"}
"""The hooks that begin at places without being told there."""
_WITHIN = (_TRANSLATION, _CLASSIFIER, *_BY_FUNCTION, *_RULESETS)
"""The functions that are called from a hook, so that its name still holds in them."""
_SENDING, _STALE_DEVICE = "OUTPUT", "ip_output"
"""Where a packet that was put into VXLAN still has the device that it left, in another namespace."""
_AT_A_HOOK = "NETFILTER_DROP"
_AT_HOOKS, _BY_CONNECTION = "nf_hook_slow", "NAT, its connection"
_ECHO, _ECHO_REPLY = 8, 0
_ERRORS = {
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 3): "port unreachable",
    (3, 4): "fragmentation needed",
    (11, 0): "time exceeded",
}


def story(flow: Followed) -> Story:
    """Return the story of a flow."""
    ways: list[Way] = []
    told: list[Trail] = []
    forward: set[tuple[str, str]] = set()
    connects = [each for each in flow.sightings if each.place == _CONNECTING]
    for number, packet in enumerate(_packets(flow.sightings)):
        direction = _direction(flow, packet, forward, first=number == 0)
        if direction == "request":
            forward |= {(each.source, each.destination) for each in packet if each.source}
        before = connects if number == 0 else []
        made = _way(direction, packet, _rewritten_by_socket(before, packet), _services(flow))
        told.append((made, packet))
        alike = (n for n, way in enumerate(ways) if _path(way) == _path(made))
        if (same := next(alike, None)) is None:
            ways.append(made)
        else:
            ways[same] = replace(ways[same], others=ways[same].others + 1)
    ways = [_told_to_socket(way, connects, flow) if way.direction == "reply" else way for way in ways]
    return Story(flow, ways, cause(flow, told))


def _told_to_socket(way: Way, connects: Sequence[Sighting], flow: Followed) -> Way:
    """Return the way of an answer with the rewrite of its source that the programs of a cgroup make for the socket."""
    for each in connects:
        if flow.source and each.destination == way.source != flow.source and each.hook.endswith(_TELLING):
            ends = [each.destination, way.destination], [flow.source, way.destination]
            hop = Hop("rewritten", each.namespace, "", each.hook, *ends, _BY_CGROUP)
            *passages, last = way.passages
            return replace(way, steps=[*way.steps, hop], passages=[*passages, replace(last, steps=last.steps + 1)])
    return way


def first_difference(one: Story, other: Story) -> tuple[str, Hop | None, Hop | None] | None:
    """Return the direction and the hops at which two stories part, or None. A story that ends there has no hop."""
    for direction in ("request", "reply"):
        ways = [next((way for way in each.ways if way.direction == direction), None) for each in (one, other)]
        steps = [[step for step in way.steps if step.kind != "carried"] if way else [] for way in ways]
        for left, right in zip_longest(*steps):
            if left is None or right is None or replace(left, by="") != replace(right, by=""):
                return direction, left, right
    return None


def _path(way: Way) -> tuple[object, ...]:
    """Return what a way has in common with others.

    Only the first packet of a connection meets the rules, and a socket is told a backend before there is a packet.
    """
    return way.direction, [replace(each, by="") for each in way.steps if each.by != _BY_CGROUP], way.end


def _packets(sightings: Iterable[Sighting]) -> list[list[Sighting]]:
    """Return the sightings of each packet, in the order of the packets' first ones."""
    found: list[list[Sighting]] = []
    latest: dict[int, list[Sighting]] = {}
    by_copy: dict[int, list[Sighting]] = {}
    for each in sightings:
        if not each.packet:
            continue
        packet = by_copy.get(each.copy)
        if packet is None or packet[0].packet != each.packet:
            packet = latest.get(each.packet)
        if packet is None or _in_its_place(packet, each) or _sent_again(packet, each) or _made_of_it(packet, each):
            packet = latest[each.packet] = []
            found.append(packet)
        packet.append(each)
        by_copy[each.copy] = packet
    return found


def _in_its_place(packet: Sequence[Sighting], each: Sighting) -> bool:
    """Return True if a sighting is of another packet, whose memory was that of a packet which has arrived.

    TCP frees what it has received without telling (net/core/skbuff.c, skb_attempt_defer_free).
    """
    arrived = [known.copy for known in packet if _arrived(known)]
    return bool(arrived and not each.reason) and (
        each.copy in arrived or all(known.copy != each.copy for known in packet)
    )


def _sent_again(packet: Sequence[Sighting], each: Sighting) -> bool:
    """Return True if a sighting is of a retransmission: TCP sends a new clone of the data that it has kept."""
    return len(packet) > 1 and _spot(packet[0]) == _spot(each)


def _spot(each: Sighting) -> tuple[str, ...]:
    return each.place, each.namespace, each.device, each.hook, each.source, each.destination


def _made_of_it(packet: Sequence[Sighting], each: Sighting) -> bool:
    """Return True if a packet has become the ICMP error about itself (net/ipv4/ip_tunnel_core.c, iptunnel_pmtud_*)."""
    return each.icmp is not None and packet[0].icmp is None


def _arrived(each: Sighting) -> bool:
    return each.place in _ARRIVALS and not each.carrier


def _direction(
    flow: Followed, packet: Sequence[Sighting], forward: set[tuple[str, str]], *, first: bool
) -> Literal["request", "reply", "error"]:
    begin = packet[0]
    if begin.icmp is not None and begin.icmp not in (_ECHO, _ECHO_REPLY):
        return "error"
    if begin.icmp is not None:
        return "request" if begin.icmp == _ECHO else "reply"
    if first or (begin.source, begin.destination) in forward:
        return "request"
    # A command may begin several flows, each from a port of its own.
    asked = {destination for _, destination in forward}
    to_vip = begin.destination.partition(":")[0] in (flow.vip, *flow.vips)
    return "request" if flow.command and (to_vip or begin.destination in asked) else "reply"


def _services(flow: Followed) -> Services:
    found: dict[str, list[str]] = {}
    for fact in flow.facts:
        if fact.kind == "ipvs":
            found.setdefault(fact.namespace, []).append(fact.name)
    return found


def _way(
    direction: Literal["request", "reply", "error"], packet: list[Sighting], first: list[Hop], services: Services
) -> Way:
    begin = packet[0]
    source, destination = first[0].before if first else (begin.source, begin.destination)
    end, ended = _end(packet)
    stays = _stays(packet, ended)
    begins = [stay[0].time for stay in stays]
    steps = [(0, hop) for hop in first] + [
        (max(0, bisect(begins, at.time) - 1), hop) for at, hop in _steps(packet, services)
    ]
    steps.sort(key=itemgetter(0))
    counts = Counter(number for number, _ in steps)
    passages = [_passage(stay, counts[number]) for number, stay in enumerate(stays)]
    return Way(direction, _what(begin), source, destination, [hop for _, hop in steps], end, passages=passages)


def _stays(packet: Sequence[Sighting], ended: Sighting) -> list[list[Sighting]]:
    """Return the sightings in each namespace that the packet passed on its way to the one with which it ended.

    A frame that is flooded has a copy for each port. What those met that went elsewhere is left out.
    """
    own = next(each.time for each in packet if each.copy == ended.copy)
    elsewhere = {(each.copy, each.namespace) for each in packet if each.reason == FLOODED}
    before = [each for each in packet if each.time < own and (each.copy, each.namespace) not in elsewhere]
    passed = before + [each for each in packet if each.copy == ended.copy and each.time <= ended.time]
    passed = [each for each in passed if each.place != _STALE_DEVICE or not each.carrier] or [ended]
    return [list(stay) for _, stay in groupby(passed, key=attrgetter("namespace"))]


def _passage(stay: Sequence[Sighting], steps: int) -> Passage:
    devices = [each.device for each in stay if each.device and each.hook != _SENDING] or [""]
    return Passage(stay[0].namespace, devices[0], devices[-1], steps)


def _what(begin: Sighting) -> str:
    if begin.icmp is not None:
        told = {_ECHO: "echo request", _ECHO_REPLY: "echo reply"}.get(begin.icmp)
        return told or f"ICMP {_ERRORS.get((begin.icmp, begin.code), f'error {begin.icmp}, code {begin.code}')}"
    return begin.flags or "datagram"


def _rewritten_by_socket(connects: Sequence[Sighting], packet: Sequence[Sighting]) -> list[Hop]:
    """Return the rewrite of a destination before there is a packet, by the programs of a cgroup."""
    begin = packet[0]
    for each in connects:
        if each.destination != begin.destination and each.time <= begin.time:
            ends = [begin.source, each.destination], [begin.source, begin.destination]
            return [Hop("rewritten", each.namespace, "", each.hook, *ends, _BY_CGROUP)]
    return []


def _contexts(packet: Sequence[Sighting]) -> Iterator[tuple[Sighting, Sighting, str, str]]:
    """Yield each sighting with the one before of the same copy, its hook, and the ruleset evaluated last there.

    A copy's first sighting comes after the packet's last one.
    """
    contexts: dict[int, tuple[Sighting, str, str]] = {}  # by copy
    previous = packet[0], "", ""
    for each in packet:
        last, hook, ruleset = contexts.get(each.copy, previous)
        yield each, last, hook, ruleset
        if each.place not in _WITHIN or (each.place == _TRANSLATION and not last.tracked):
            ruleset = ""  # it was evaluated at another hook, or before connection tracking, so that it is not of NAT
        if each.hook or each.place not in _WITHIN:
            hook = each.hook or _HOOKS.get(each.place, "")
        if each.place in _RULESETS:
            ruleset = f"{_RULESETS[each.place]} {each.ruleset}".strip()
        contexts[each.copy] = previous = each, hook, ruleset


def _steps(packet: Sequence[Sighting], services: Services) -> Iterator[tuple[Sighting, Hop]]:
    """Yield each step with the last sighting before it."""
    told: list[Hop] = []  # copies of a packet that are flooded are not told of twice
    for each, last, hook, ruleset in _contexts(packet):
        by = _decider(last, ruleset, services)
        if last.place == _AT_HOOKS and each.tracked.startswith("related"):
            by = _BY_CONNECTION  # an ICMP error (net/netfilter/nf_nat_core.c, nf_nat_icmp_reply_translation)
        for hop in _between(last, each, hook, by):
            if hop not in told:
                told.append(hop)
                yield last, hop


def _service(last: Sighting, services: Services) -> str:
    """Return what selects the service of IPVS that a packet is for: its mark, or its destination."""
    known = services.get(last.namespace, ()) if last.place in _BY_FUNCTION else ()
    keys = f"mark {last.mark:#x}", f"{last.protocol} {last.destination}"
    return next((key for key in keys if key in known), "")


def _between(last: Sighting, each: Sighting, hook: str, by: str) -> Iterator[Hop]:
    before, after = [last.source, last.destination], [each.source, each.destination]
    if before != after:
        yield Hop("rewritten", last.namespace, last.device, hook, before, after, by)
    if last.place in _SENT_ON:
        yield Hop("sent on", last.namespace, last.device, hook, before, after, by)
    if each.carrier and not last.carrier:
        yield Hop("carried", last.namespace, last.device, "", before, after, f"VXLAN {each.carrier}")


def _decider(last: Sighting, ruleset: str, services: Services) -> str:
    """Return what changed a packet that was seen at a place before."""
    if last.place == _TRANSLATION:
        return ruleset if ruleset and last.tracked.startswith("new") else _BY_CONNECTION
    if last.place in _RULESETS:
        return ruleset
    if last.place in _HOOKS or last.place == _CLASSIFIER:
        return "BPF program"
    return ", ".join(filter(None, (_BY_FUNCTION.get(last.place, last.place), _service(last, services))))


def _end(packet: Sequence[Sighting]) -> tuple[WayEnd, Sighting]:
    """Return the end of a packet's way, and the sighting there."""
    arrived = next(filter(_arrived, packet), None)
    found = [context for context in _contexts(packet) if context[0].reason not in ("", FLOODED)]
    if arrived and arrived.icmp == _ECHO_REPLY:
        found = []  # a raw socket has taken a copy, and the rest is dropped (net/ipv4/icmp.c, icmp_rcv)
    elif arrived:
        found = [context for context in found if context[0].copy == arrived.copy and context[0].time >= arrived.time]
    if found:
        drop, _, hook, ruleset = found[-1]
        if drop.reason != _AT_A_HOOK:  # it had left the hook
            hook = ruleset = ""
        return WayEnd("dropped", drop.namespace, drop.device, hook, drop.function, drop.reason, ruleset), drop
    if arrived:
        return WayEnd("arrived", arrived.namespace, arrived.device, function=arrived.place), arrived
    last = packet[-1]
    return WayEnd("lost", last.namespace, last.device, last.hook, last.place), last
