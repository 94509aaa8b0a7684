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

from msgspec import Struct
from msgspec.structs import replace

from bench.analysis.cause import Trail, cause
from bench.documents.tracing import Followed, Hop, Passage, Story, Way, WayEnd
from dataplanes.follower import FLOODED, Sighting

_CONNECTING = "__cgroup_bpf_run_filter_sock_addr"
_TELLING = ("recvmsg", "getpeername")
_BY_CGROUP = "BPF program of the cgroup"
_ARRIVALS = ("tcp_v4_rcv", "udp_rcv", "icmp_rcv", "sctp_rcv")
_TRANSLATION, _CLASSIFIER = "nf_nat_manip_pkt", "tcf_classify"
_BY_FUNCTION = {
    "ip_vs_nat_xmit": "IPVS",
    "ip_vs_in_hook": "IPVS",
    "ip_vs_out_hook": "IPVS",
    "ip_vs_dr_xmit": "IPVS, direct routing",
}
_RULESETS = {"nft_do_chain": "nft", "ipt_do_table": "iptables"}
_SENT_ON = ("ip_vs_dr_xmit",)
_HOOKS = {"netif_receive_skb": "tc ingress", "__dev_queue_xmit": "tc egress"}
"""The hooks that begin at places without being told there."""
_WITHIN = (_TRANSLATION, _CLASSIFIER, *_BY_FUNCTION, *_RULESETS)
"""The functions that are called from a hook, so that its name still holds in them."""
_SENDING, _STALE_DEVICE = "OUTPUT", "ip_output"
"""Where a packet that was put into VXLAN still has the device that it left, in another namespace."""
_AT_A_HOOK = "NETFILTER_DROP"
_AT_HOOKS, _BY_CONNECTION = "nf_hook_slow", "NAT, its connection"
_READ = ("sctp_recvmsg",)
"""The functions that free what an application has read as if it were dropped (net/sctp/socket.c)."""
_ECHO, _ECHO_REPLY = 8, 0
_ERRORS = {
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 3): "port unreachable",
    (3, 4): "fragmentation needed",
    (11, 0): "time exceeded",
}


class Context(Struct, frozen=True):
    """What a packet met before it was seen: the sighting before, its hook, and the ruleset evaluated last there."""

    last: Sighting
    hook: str = ""
    ruleset: str = ""
    rules: tuple[Sighting, ...] = ()  # which have acted on it


class FlowFacts:
    """What is known of the namespaces: what selects each service of IPVS, and the texts of rules; and of the clock."""

    def __init__(self, flow: Followed) -> None:
        self._begin = next((_own(each) for each in flow.sightings if flow.counted), None)
        self._services: dict[str, list[str]] = {}
        self._rules: dict[tuple[str, str, int], str] = {}
        for fact in flow.facts:
            if fact.kind == "ipvs":
                self._services.setdefault(fact.namespace, []).append(fact.name)
            elif fact.kind == "rule":
                self._rules[fact.namespace, fact.name, fact.number] = fact.value

    def instructions(self, at: Sighting) -> int | None:
        """Return how many were executed from the flow's first sighting to this one; None by another clock."""
        return max(0, _own(at) - self._begin) if self._begin is not None else None

    def service(self, last: Sighting) -> str:
        """Return what selects the service of IPVS that a packet is for: its mark, or its destination."""
        known = self._services.get(last.namespace, ()) if last.place in _BY_FUNCTION else ()
        keys = f"mark {last.mark:#x}", f"{last.protocol} {last.destination}"
        return next((key for key in keys if key in known), "")

    def rules(self, met: Context) -> list[str]:
        """Return the texts of the rules that have acted on a packet; of one that was not read, its number."""
        keys = [(each.namespace, each.ruleset, each.rule) for each in met.rules]
        return list(dict.fromkeys(self._rules.get(key) or f"number {key[2]}" for key in keys))


def _own(each: Sighting) -> int:
    """Return when a packet was seen, without the time that following it has taken."""
    return each.time - each.spent


def story(flow: Followed) -> Story:
    """Return the story of a flow."""
    known = FlowFacts(flow)
    ways: list[Way] = []
    told: list[Trail] = []
    forward: set[tuple[str, str]] = set()
    connects = [each for each in flow.sightings if each.place == _CONNECTING]
    for number, packet in enumerate(_packets(flow.sightings)):
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


def _told_to_socket(way: Way, connects: Sequence[Sighting], flow: Followed, known: FlowFacts) -> Way:
    """Return the way of an answer with the rewrite of its source that the programs of a cgroup make for the socket."""
    for each in connects:
        if flow.source and each.destination == way.source != flow.source and each.hook.endswith(_TELLING):
            ends = [each.destination, way.destination], [flow.source, way.destination]
            cost = known.instructions(each)
            hop = Hop("rewritten", each.namespace, "", each.hook, *ends, _BY_CGROUP, instructions=cost)
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
    return way.direction, [_bare(each) for each in way.steps if each.by != _BY_CGROUP], _alike(way.end)


def _bare(hop: Hop) -> Hop:
    """Return a hop without what differs between packets that go the same way, and between planes that do the same."""
    return replace(hop, by="", rules=[], instructions=None)


def _alike(end: WayEnd) -> WayEnd:
    return replace(end, instructions=None)


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


def _joined(fragment: list[Sighting] | None, each: Sighting, found: Sequence[list[Sighting]]) -> list[Sighting] | None:
    """Return the packet of the first fragment, if a sighting is of the datagram that was put together.

    The kernel makes the last fragment that came into the datagram (net/ipv4/inet_fragment.c, inet_frag_reasm_prepare).
    """
    if not fragment or not fragment[-1].fragment or each.fragment is not None:
        return None
    here = each.namespace, each.source, each.destination
    firsts = (packet for packet in reversed(found) if packet[-1].fragment == 0)
    return next((it for it in firsts if (it[-1].namespace, it[-1].source, it[-1].destination) == here), None)


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
    direction: Literal["request", "reply", "error"], packet: list[Sighting], first: list[Hop], known: FlowFacts
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
    end = replace(end, instructions=known.instructions(ended))
    told = Way(direction, _what(begin), source, destination, [hop for _, hop in steps], end, passages=passages)
    return replace(told, instructions=known.instructions(begin))


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
    if begin.fragment:
        return f"fragment from byte {begin.fragment:,}"
    return begin.flags or "datagram"


def _rewritten_by_socket(connects: Sequence[Sighting], packet: Sequence[Sighting], known: FlowFacts) -> list[Hop]:
    """Return the rewrite of a destination before there is a packet, by the programs of a cgroup."""
    begin = packet[0]
    for each in connects:
        if each.destination != begin.destination and each.time <= begin.time:
            ends = [begin.source, each.destination], [begin.source, begin.destination]
            cost = known.instructions(each)
            return [Hop("rewritten", each.namespace, "", each.hook, *ends, _BY_CGROUP, instructions=cost)]
    return []


def _contexts(packet: Sequence[Sighting]) -> Iterator[tuple[Sighting, Context]]:
    """Yield each sighting with what the same copy met before.

    The first sighting of a copy comes after the packet's last one. A rule acts within a place, and is no sighting here.
    """
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
        if each.place not in _WITHIN or (each.place == _TRANSLATION and not met.last.tracked):
            ruleset = ""  # it was evaluated at another hook, or before connection tracking, so that it is not of NAT
        if each.hook or each.place not in _WITHIN:
            hook = each.hook or _HOOKS.get(each.place, "")
        if each.place in _RULESETS:
            ruleset = f"{_RULESETS[each.place]} {each.ruleset}".strip()
        contexts[each.copy] = previous = Context(each, hook, ruleset, rules if ruleset == met.ruleset else ())


def _steps(packet: Sequence[Sighting], known: FlowFacts) -> Iterator[tuple[Sighting, Hop]]:
    """Yield each step with the last sighting before it."""
    told: list[Hop] = []  # copies of a packet that are flooded are not told of twice
    for each, met in _contexts(packet):
        by = _decider(met, known)
        if met.last.place == _AT_HOOKS and each.tracked.startswith("related"):
            by = _BY_CONNECTION  # an ICMP error (net/netfilter/nf_nat_core.c, nf_nat_icmp_reply_translation)
        rules = known.rules(met) if by == met.ruleset else []
        for hop in _between(met.last, each, met.hook, by, rules):
            if hop not in told:
                told.append(hop)
                yield met.last, hop


def _between(last: Sighting, each: Sighting, hook: str, by: str, rules: list[str]) -> Iterator[Hop]:
    before, after = [last.source, last.destination], [each.source, each.destination]
    if before != after:
        yield Hop("rewritten", last.namespace, last.device, hook, before, after, by, rules)
    if last.fragment is None and each.fragment == 0:
        yield Hop("divided", last.namespace, last.device, hook, after, after, "IP, fragments")
    if last.fragment is not None and each.fragment is None:
        yield Hop("joined", last.namespace, last.device, hook, after, after, "IP, fragments")
    if last.place in _SENT_ON:
        yield Hop("sent on", last.namespace, last.device, hook, before, after, by)
    if each.carrier and not last.carrier:
        yield Hop("carried", last.namespace, last.device, "", before, after, f"VXLAN {each.carrier}")


def _decider(met: Context, known: FlowFacts) -> str:
    """Return what changed a packet after it was seen at a place."""
    last = met.last
    if last.place == _TRANSLATION:
        return met.ruleset if met.ruleset and last.tracked.startswith("new") else _BY_CONNECTION
    if last.place in _RULESETS:
        return met.ruleset
    if last.place in _HOOKS or last.place == _CLASSIFIER:
        return "BPF program"
    return ", ".join(filter(None, (_BY_FUNCTION.get(last.place, last.place), known.service(last))))


def _end(packet: Sequence[Sighting], known: FlowFacts) -> tuple[WayEnd, Sighting]:
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
    last = packet[-1]
    if last.fragment:  # its memory is a part of the datagram's from now on (net/ipv4/ip_fragment.c, ip_frag_reasm)
        return WayEnd("joined", last.namespace, last.device, last.hook, last.place), last
    return WayEnd("lost", last.namespace, last.device, last.hook, last.place), last
