"""The cause of a request's failure, with its place: found in the sightings of packets, and in facts about namespaces.

The kernel tells where a packet died, and why there. That is often not where the fault is: a segment that a client's
kernel refuses was not translated back elsewhere, and a neighbour that nobody knows is a VIP that nobody balanced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bench.documents.tracing import Explanation, Fact, Followed, Hop, Way, WayEnd
from dataplanes.follower import Sighting

Trail = tuple[Way, Sequence[Sighting]]
"""A way, and the sightings that it is made of."""
_AT_A_HOOK, _NO_SOCKET, _UNRESOLVED = "NETFILTER_DROP", "NO_SOCKET", "NEIGH_"
_BRIDGE_CALLS, _ARP_IGNORE = "net.bridge.bridge-nf-call-iptables", "arp_ignore"
_IPVS, _CONNECTING = "ip_vs_in_hook", "__cgroup_bpf_run_filter_sock_addr"
_TOO_LARGE = 3, 4
"""The type and the code of the ICMP error that fragmentation is needed."""
_VXLAN = "vxlan0"
"""The device of an overlay's namespace that answers ARP for the containers of other nodes."""


def cause(flow: Followed, told: Sequence[Trail]) -> Explanation | None:
    """Return the cause for which a flow got no answer; None if it got one."""
    return None if flow.answered else _Inquiry(flow, told).cause()


class _Inquiry:
    def __init__(self, flow: Followed, told: Sequence[Trail]) -> None:
        self._flow = flow
        self._told = told

    def cause(self) -> Explanation:
        for kind in ("dropped", "error", "lost"):
            for way, packet in self._told:
                if kind in (way.end.kind, way.direction):
                    return self._complaint(way, packet) if kind == "error" else self._of(way, packet)
        if not self._told:
            return Explanation(self._flow.origin, "", "", f"no packet was sent: {self._flow.answer}")
        end = self._told[-1][0].end
        return Explanation(end.namespace, end.device, "", "the last packet arrived here, and nothing came after it")

    def _of(self, way: Way, packet: Sequence[Sighting]) -> Explanation:
        last, end = packet[-1], way.end
        here = end.namespace, end.device, end.hook
        if way.direction == "request" and self._is_vip(last.destination) and (found := self._unbalanced(packet)):
            return found
        if end.reason == _AT_A_HOOK:
            return self._full(way) or Explanation(*here, self._rule(end))
        if end.reason.startswith(_UNRESOLVED):
            return self._unresolved(way, last.destination.partition(":")[0])
        if end.reason == _NO_SOCKET and way.direction == "reply" and not self._is_vip(last.source):
            return self._untranslated(packet)
        if end.reason == _NO_SOCKET:
            return Explanation(*here, f"nobody listens at {last.destination}")
        return Explanation(*here, f"{end.reason or 'it was seen last'} in {end.function}")

    def _is_vip(self, end: str) -> bool:
        """Return True if an end is that which was asked. A command may ask at any port."""
        return self._flow.vip in (end, end.partition(":")[0])

    # -- a request that no balancer has changed ----------------------------------------------------------------------

    def _unbalanced(self, packet: Sequence[Sighting]) -> Explanation | None:
        """Return why a request still goes to the VIP, if a balancer lacks what it needs."""
        lacking = {fact.namespace for fact in self._facts("bpf")}
        if self._flow.origin in lacking:
            why = f"the maps of its programs have no element for the VIP {self._flow.vip.partition(':')[0]}"
            calls = [each.hook for each in self._flow.sightings if each.place == _CONNECTING]
            return Explanation(self._flow.origin, "" if calls else "eth0", calls[0] if calls else "tc", why)
        for each in packet:
            known = [fact.name for fact in self._facts("ipvs", each.namespace)]
            wanted = {f"mark {each.mark:#x}", f"{self._flow.protocol} {each.destination}"}
            if each.place == _IPVS and known and not wanted & set(known):
                marked = f"mark {each.mark:#x}" if each.mark else "no mark"
                why = f"the packet has {marked}, and IPVS has services for {', '.join(known)} only"
                return Explanation(each.namespace, each.device, each.hook, why)
        return None

    # -- drops -------------------------------------------------------------------------------------------------------

    def _full(self, way: Way) -> Explanation | None:
        for fact in self._facts("conntrack", way.end.namespace):
            if not way.end.by and int(fact.name) >= int(fact.value):
                why = f"the connection table is full: {int(fact.name):,} entries of at most {int(fact.value):,}"
                return Explanation(way.end.namespace, way.end.device, way.end.hook, why)
        return None

    def _rule(self, end: WayEnd) -> str:
        """Return the rule that drops a packet, or else the chain: it may have several that could."""
        chain = end.by.removeprefix("nft ")
        if end.rules:
            return f"a rule of the {end.by.replace(' ', ' chain ', 1)} drops it: {end.rules[-1]}"
        rules = [fact.value for fact in self._facts("rule", end.namespace) if fact.name == chain]
        able = [rule for rule in rules if re.search(r"\b(drop|reject)\b", rule)]
        if len(able) == 1:
            return f"a rule of the nft chain {chain} drops it: {able[0]}"
        return f"{end.by or 'a hook of the kernel'} drops it"

    def _unresolved(self, way: Way, address: str) -> Explanation:
        """Return why nobody told the MAC of an address: its owner does not, or who should for an owner far away."""
        asked = f"nobody answered ARP for {address}"
        owners = {fact.namespace: fact.value for fact in self._facts("address") if fact.name == address}
        for owner in owners:
            for fact in self._facts("sysctl", owner):
                if fact.name.endswith(_ARP_IGNORE):
                    why = f"{asked}, which is here, where {_ARP_IGNORE} is {fact.value}"
                    return Explanation(owner, fact.name.split(".")[-2], "", why)
        for place in [fact.namespace for fact in self._facts("mtu") if fact.name == _VXLAN]:
            known = {fact.name for fact in self._facts("neighbour", place)}
            far = owners and _node(place) not in owners.values()
            if far and self._passed(place) and f"{address} {_VXLAN}" not in known:
                return Explanation(place, _VXLAN, "", f"{asked}, of which there is no neighbour entry here")
        there = f"which is in {', '.join(owners)}" if owners else "which is in no namespace"
        return Explanation(way.end.namespace, way.end.device, "", f"{asked}, {there}")

    def _passed(self, namespace: str) -> bool:
        return any(each.namespace == namespace for each in self._flow.sightings)

    # -- a reply that comes from an address that nobody has asked ----------------------------------------------------

    def _untranslated(self, packet: Sequence[Sighting]) -> Explanation:
        """Return why the source of a reply is not the VIP: what happened to it where the request was rewritten."""
        source, vip = packet[-1].source, self._flow.vip
        answer = f"the answer of {source} is not translated back to {vip}"
        hop = self._balancing()
        if hop is None:
            return Explanation(packet[-1].namespace, packet[-1].device, "", answer)
        seen = [each for each in packet if each.namespace == hop.namespace]
        if not seen:
            device, hook = self._left(hop)
            why = f"the request leaves with the source {hop.after[0]}, so the answer does not come back here"
            return Explanation(hop.namespace, device, hook, why)
        if not any(_of_ip(each) for each in seen):
            fact = next((each for each in self._facts("sysctl", hop.namespace) if each.name == _BRIDGE_CALLS), None)
            switch = f": {fact.name} is {fact.value}" if fact else ""
            why = f"the answer of {source} crosses the bridge past the rules{switch}"
            return Explanation(hop.namespace, seen[0].device, "bridge", why)
        hooked = next(each for each in seen if _of_ip(each))
        if not any(each.tracked for each in seen) and self._tracked(hop.namespace):
            why = f"connection tracking calls the answer INVALID, so {source} is not translated back to {vip}"
            return Explanation(hooked.namespace, hooked.device, hooked.hook, why)
        return Explanation(hooked.namespace, hooked.device, hooked.hook, answer)

    def _balancing(self) -> Hop | None:
        """Return where a request's destination was first changed."""
        hops = (step for way, _ in self._told if way.direction == "request" for step in way.steps)
        return next((step for step in hops if self._is_vip(step.before[1]) and not self._is_vip(step.after[1])), None)

    def _left(self, hop: Hop) -> tuple[str, str]:
        """Return the device and the last hook that a request passed in the namespace where it was balanced."""
        request = next(packet for way, packet in self._told if way.direction == "request" and hop in way.steps)
        hooks = [(each.device, each.hook) for each in request if each.namespace == hop.namespace and _of_ip(each)]
        return hooks[-1] if hooks else (hop.device, hop.hook)

    def _tracked(self, namespace: str) -> bool:
        return any(each.tracked for each in self._flow.sightings if each.namespace == namespace)

    # -- complaints --------------------------------------------------------------------------------------------------

    def _complaint(self, way: Way, packet: Sequence[Sighting]) -> Explanation:
        begin = packet[0]
        why = f"{way.what} was answered from here to {way.destination}"
        node = _node(begin.namespace)
        for fact in self._facts("mtu", node) if (begin.icmp, begin.code) == _TOO_LARGE else ():
            if fact.name == "eth0":
                why = f"the packet does not fit the underlay: the MTU of {fact.name} of {node} is {int(fact.value):,}"
        return Explanation(begin.namespace, begin.device, "", why)

    def _facts(self, kind: str, namespace: str = "") -> Iterator[Fact]:
        for fact in self._flow.facts:
            if fact.kind == kind and namespace in ("", fact.namespace):
                yield fact


def _of_ip(each: Sighting) -> bool:
    return bool(each.hook) and not each.hook.startswith("bridge ")


def _node(overlay: str) -> str:
    """Return the node of an overlay's namespace."""
    return overlay.partition(".")[0]
