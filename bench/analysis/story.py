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
from bench.analysis.deciders import (
    BY_CGROUP,
    BY_PROGRAM,
    CLASSIFIER,
    HOOKS,
    OF_IPVS,
    RULESETS,
    TRANSLATION,
    Context,
    Knowledge,
)
from bench.documents.tracing import Followed, Hop, Passage, Story, Way, WayEnd
from dataplanes.follower import FLOODED, Sighting

_CONNECTING = "__cgroup_bpf_run_filter_sock_addr"
_TELLING = ("recvmsg", "getpeername")
_ARRIVALS = ("tcp_v4_rcv", "udp_rcv", "icmp_rcv", "sctp_rcv")
_SENT_ON = ("ip_vs_dr_xmit",)
_WITHIN = (TRANSLATION, CLASSIFIER, *OF_IPVS, *RULESETS)
"""The functions that are called from a hook, so that its name still holds in them."""
_SENDING, _STALE_DEVICE = "OUTPUT", "ip_output"
"""Where a packet that was put into VXLAN still has the device that it left, in another namespace."""
_AT_A_HOOK = "NETFILTER_DROP"
_READ = ("sctp_recvmsg", "sk_stream_kill_queues")
"""The functions that free what a socket has received as if it were dropped (net/sctp/socket.c, net/core/stream.c)."""
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
    known = Knowledge(flow)
    ways: list[Way] = []
    told: list[Trail] = []
    forward: set[tuple[str, str]] = set()
    connects = [each for each in flow.sightings if each.place == _CONNECTING]
    for number, packet in enumerate(_of_flow(flow, _packets(flow.sightings))):
        direction = _direction(flow, packet, forward, first=number == 0)
        if direction == "request":
            forward |= {(each.source, each.destination) for each in packet if each.source}
        before = connects if number == 0 else []
        made = _way(direction, packet, _rewritten_by_socket(before, packet, known), known)
        told.append((made, packet))
        alike = (n for n, way in enumerate(ways) if _path(way) == _path(made))
        if (same := next(alike, None)) is None:
            ways.append(made)
        else:
            ways[same] = replace(ways[same], others=ways[same].others + 1)
    ways = [_told_to_socket(way, connects, flow, known) if way.direction == "reply" else way for way in ways]
    return Story(flow, ways, cause(flow, told))


def _told_to_socket(way: Way, connects: Sequence[Sighting], flow: Followed, known: Knowledge) -> Way:
    """Return the way of an answer with the rewrite of its source that the programs of a cgroup make for the socket."""
    for each in connects:
        if flow.source and each.destination == way.source != flow.source and each.hook.endswith(_TELLING):
            ends = [each.destination, way.destination], [flow.source, way.destination]
            hop = _by_cgroup(each, ends, known)
            *passages, last = way.passages
            return replace(way, steps=[*way.steps, hop], passages=[*passages, replace(last, steps=last.steps + 1)])
    return way


def first_difference(one: Story, other: Story) -> tuple[str, Hop | None, Hop | None] | None:
    """Return the direction and the hops at which two stories part, or None. A story that ends there has no hop."""
    for direction in ("request", "reply"):
        ways = [next((way for way in each.ways if way.direction == direction), None) for each in (one, other)]
        steps = [[step for step in way.steps if step.kind != "carried"] if way else [] for way in ways]
        for left, right in zip_longest(*steps):
            if left is None or right is None or _bare(left) != _bare(right):
                return direction, left, right
    return None


def _path(way: Way) -> tuple[object, ...]:
    """Return what a way has in common with others.

    Only the first packet of a connection meets the rules, and a socket is told a backend before there is a packet.
    """
    return way.direction, [_bare(each) for each in way.steps if not each.by.startswith(BY_CGROUP)], _alike(way.end)


def _by_cgroup(call: Sighting, ends: tuple[list[str], list[str]], known: Knowledge) -> Hop:
    """Return the rewrite that the programs of a cgroup have made of an address of a socket's."""
    by, elements, cost = known.of_cgroup(call), known.elements(call, *ends), known.instructions(call)
    return Hop("rewritten", call.namespace, "", call.hook, *ends, by, instructions=cost, elements=elements)


def _bare(hop: Hop) -> Hop:
    """Return a hop without what differs between packets that go the same way, and between planes that do the same."""
    return replace(hop, by="", rules=[], instructions=None, elements=[], tracked="")


def _alike(end: WayEnd) -> WayEnd:
    return replace(end, instructions=None, tracked="")


def _packets(sightings: Iterable[Sighting]) -> list[list[Sighting]]:
    """Return the sightings of each packet, in the order of the packets' first ones.

    The later fragments of a datagram are packets of their own. The first one is the datagram's.
    """
    found: list[list[Sighting]] = []
    latest: dict[tuple[int, int], list[Sighting]] = {}  # by packet and fragment
    by_copy: dict[int, list[Sighting]] = {}
    joined: dict[str, int] = {}  # namespace -> when a datagram was put together there
    for each in sightings:
        if not each.packet or each.function in _READ:
            continue
        key = each.packet, each.fragment or 0
        packet = by_copy.get(each.copy)
        if packet is None or (packet[0].packet, packet[-1].fragment or 0) != key:
            packet = latest.get(key)
            if packet is None and (packet := _joined(by_copy.get(each.copy), each, found)):
                joined[each.namespace] = each.time
        if packet and each.fragment and packet[-1].time < joined.get(each.namespace, 0):
            packet = None  # it was divided anew
        if packet is None or _in_its_place(packet, each) or _sent_again(packet, each) or _made_of_it(packet, each):
            packet = []
            found.append(packet)
        latest[key] = packet
        packet.append(each)
        by_copy[each.copy] = packet
    return found


def _of_flow(flow: Followed, packets: Iterable[list[Sighting]]) -> Iterator[list[Sighting]]:
    """Yield the packets without those of others that were in the memory of one that has gone without a word.

    An end of a packet of the flow was seen before, or it is what was asked.
    """
    ends: set[str] = set()
    for packet in packets:
        begin = packet[0]
        asks = begin.destination.partition(":")[0] in (flow.vip.partition(":")[0], *flow.vips)
        if not ends or asks or begin.source in ends or begin.destination in ends:
            ends |= {end for each in packet for end in (each.source, each.destination)}
            yield packet


def _joined(fragment: list[Sighting] | None, each: Sighting, found: Sequence[list[Sighting]]) -> list[Sighting] | None:
    """Return the packet of the first fragment, if a sighting is of the datagram that was put together.

    The kernel makes the last fragment that came into the datagram (net/ipv4/inet_fragment.c, inet_frag_reasm_prepare).
    """
    if not fragment or not fragment[-1].fragment or each.fragment is not None:
        return None
    here = each.namespace, each.source, each.destination
    firsts = (packet for packet in reversed(found) if packet[-1].fragment == 0)
    return next((it for it in firsts if any((at.namespace, at.source, at.destination) == here for at in it)), None)


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


def _way(
    direction: Literal["request", "reply", "error"], packet: list[Sighting], first: list[Hop], known: Knowledge
) -> Way:
    begin = packet[0]
    source, destination = first[0].before if first else (begin.source, begin.destination)
    end, ended = _end(packet, known)
    stays = _stays(packet, ended)
    begins = [stay[0].time for stay in stays]
    steps = [(0, hop) for hop in first] + [
        (max(0, bisect(begins, at.time) - 1), replace(hop, instructions=known.instructions(at)))
        for at, hop in _steps(packet, known)
    ]
    steps.sort(key=itemgetter(0))
    counts = Counter(number for number, _ in steps)
    passages = [_passage(stay, counts[number]) for number, stay in enumerate(stays)]
    end = replace(end, instructions=known.instructions(ended), tracked=ended.tracked)
    told = Way(direction, _what(begin), source, destination, [hop for _, hop in steps], end, passages=passages)
    return replace(told, instructions=known.instructions(begin))


def _stays(packet: Sequence[Sighting], ended: Sighting) -> list[list[Sighting]]:
    """Return the sightings in each namespace that the packet passed on its way to the one with which it ended.

    A frame that is flooded has a copy for each port. What those met that went elsewhere is left out.
    """
    own = next(each.time for each in packet if each.copy == ended.copy)
    elsewhere = _elsewhere(packet)
    before = [each for each in packet if each.time < own and (each.copy, each.namespace) not in elsewhere]
    passed = before + [each for each in packet if each.copy == ended.copy and each.time <= ended.time]
    passed = [each for each in passed if each.place != _STALE_DEVICE or not each.carrier] or [ended]
    return [list(stay) for _, stay in groupby(passed, key=attrgetter("namespace"))]


def _elsewhere(packet: Sequence[Sighting]) -> set[tuple[int, str]]:
    """Return the copies that were flooded, each with the namespace that has dropped it."""
    return {(each.copy, each.namespace) for each in packet if each.reason == FLOODED}


def _passage(stay: Sequence[Sighting], steps: int) -> Passage:
    devices = [each.device for each in stay if each.device and each.hook != _SENDING] or [""]
    return Passage(stay[0].namespace, devices[0], devices[-1], steps)


def _what(begin: Sighting) -> str:
    if begin.icmp is not None:
        told = {_ECHO: "echo request", _ECHO_REPLY: "echo reply"}.get(begin.icmp)
        return told or f"ICMP {_ERRORS.get((begin.icmp, begin.code), f'error {begin.icmp}, code {begin.code}')}"
    if begin.fragment:
        return f"fragment from byte {begin.fragment:,}"
    return begin.flags or "datagram"


def _rewritten_by_socket(connects: Sequence[Sighting], packet: Sequence[Sighting], known: Knowledge) -> list[Hop]:
    """Return the rewrite of a destination before there is a packet, by the programs of a cgroup."""
    begin = packet[0]
    for each in connects:
        if each.destination != begin.destination and each.time <= begin.time:
            ends = [begin.source, each.destination], [begin.source, begin.destination]
            return [_by_cgroup(each, ends, known)]
    return []


def _contexts(packet: Sequence[Sighting]) -> Iterator[tuple[Sighting, Context]]:
    """Yield each sighting with what the same copy met before.

    The first sighting of a copy comes after the packet's last one, unless that one was only flooded.
    A rule acts within a place, and is no sighting here.
    """
    elsewhere = _elsewhere(packet)
    contexts: dict[int, Context] = {}  # by copy
    previous = Context(packet[0])
    for each in packet:
        met = contexts.get(each.copy, previous)
        if each.rule:
            kind = "nft" if " " in each.ruleset else "iptables"
            ruleset = f"{kind} {each.ruleset}"
            before = met.rules if met.ruleset == ruleset else ()
            contexts[each.copy] = previous = replace(met, ruleset=ruleset, rules=(*before, each))
            continue
        yield each, met
        hook, ruleset, rules = met.hook, met.ruleset, met.rules
        if each.place not in _WITHIN or (each.place == TRANSLATION and not met.last.tracked):
            ruleset = ""  # it was evaluated at another hook, or before connection tracking, so that it is not of NAT
        if each.hook or each.place not in _WITHIN:
            hook = each.hook or HOOKS.get(each.place, "")
        if each.place in RULESETS:
            ruleset = f"{RULESETS[each.place]} {each.ruleset}".strip()
        contexts[each.copy] = Context(each, hook, ruleset, rules if ruleset == met.ruleset else ())
        if (each.copy, each.namespace) not in elsewhere:
            previous = contexts[each.copy]


def _steps(packet: Sequence[Sighting], known: Knowledge) -> Iterator[tuple[Sighting, Hop]]:
    """Yield each step with the last sighting before it."""
    told: list[Hop] = []  # copies of a packet that are flooded are not told of twice
    for each, met in _contexts(packet):
        by = known.decider(met, each)
        rules = known.rules(met) if by == met.ruleset else []
        for hop in _between(met.last, each, met.hook, by, rules):
            if hop not in told:
                told.append(hop)
                by_program = hop.kind == "rewritten" and by.startswith(BY_PROGRAM)
                elements = known.elements(met.last, hop.before, hop.after) if by_program else []
                yield met.last, replace(hop, elements=elements)


def _between(last: Sighting, each: Sighting, hook: str, by: str, rules: list[str]) -> Iterator[Hop]:
    before, after = [last.source, last.destination], [each.source, each.destination]
    if before != after:
        yield Hop("rewritten", last.namespace, last.device, hook, before, after, by, rules, tracked=last.tracked)
    if last.fragment is None and each.fragment == 0:
        yield Hop("divided", last.namespace, last.device, hook, after, after, "IP, fragments")
    if last.fragment is not None and each.fragment is None:
        yield Hop("joined", last.namespace, last.device, hook, after, after, "IP, fragments")
    if last.place in _SENT_ON:
        yield Hop("sent on", last.namespace, last.device, hook, before, after, by, tracked=last.tracked)
    if each.carrier and not last.carrier:
        yield Hop("carried", last.namespace, last.device, "", before, after, f"VXLAN {each.carrier}")


def _end(packet: Sequence[Sighting], known: Knowledge) -> tuple[WayEnd, Sighting]:
    """Return the end of a packet's way, and the sighting there."""
    arrived = next(filter(_arrived, packet), None)
    found = [(each, met) for each, met in _contexts(packet) if each.reason not in ("", FLOODED)]
    if arrived and arrived.icmp == _ECHO_REPLY:
        found = []  # a raw socket has taken a copy, and the rest is dropped (net/ipv4/icmp.c, icmp_rcv)
    elif arrived:
        found = [(each, met) for each, met in found if each.copy == arrived.copy and each.time >= arrived.time]
    if found:
        drop, met = found[-1]
        end = WayEnd("dropped", drop.namespace, drop.device, "", drop.function, drop.reason)
        if drop.reason == _AT_A_HOOK:  # else it had left the hook
            end = replace(end, hook=met.hook, by=met.ruleset, rules=known.rules(met))
        return end, drop
    if arrived:
        return WayEnd("arrived", arrived.namespace, arrived.device, function=arrived.place), arrived
    elsewhere = _elsewhere(packet)
    last = next((each for each in reversed(packet) if (each.copy, each.namespace) not in elsewhere), packet[-1])
    if last.fragment:  # its memory is a part of the datagram's from now on (net/ipv4/ip_fragment.c, ip_frag_reasm)
        return WayEnd("joined", last.namespace, last.device, last.hook, last.place), last
    return WayEnd("lost", last.namespace, last.device, last.hook, last.place), last
