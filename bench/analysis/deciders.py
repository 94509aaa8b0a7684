"""What has decided about a packet: the function, the ruleset, the service or the program that it met, and in them what.

Facts were read when the flow was over: services of IPVS, the texts of rules, the names of programs, and the elements of
their maps.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench.documents.tracing import Followed
from dataplanes.elements import Stage
from dataplanes.follower import Sighting

TRANSLATION, CLASSIFIER = "nf_nat_manip_pkt", "tcf_classify"
OF_IPVS = {
    "ip_vs_nat_xmit": "IPVS",
    "ip_vs_in_hook": "IPVS",
    "ip_vs_out_hook": "IPVS",
    "ip_vs_dr_xmit": "IPVS, direct routing",
}
RULESETS = {"nft_do_chain": "nft", "ipt_do_table": "iptables"}
HOOKS = {"netif_receive_skb": "tc ingress", "__dev_queue_xmit": "tc egress"}
"""The hooks that begin at places without being told there."""
BY_CONNECTION, BY_PROGRAM, BY_CGROUP = "NAT, its connection", "BPF program", "BPF program of the cgroup"
_AT_HOOKS = "nf_hook_slow"


class Context(Struct, frozen=True):
    """What a packet met before it was seen: the sighting before, its hook, and the ruleset evaluated last there."""

    last: Sighting
    hook: str = ""
    ruleset: str = ""
    rules: tuple[Sighting, ...] = ()  # which have acted on it


class Knowledge:
    """What is known of a flow besides its sightings, and of the clock."""

    def __init__(self, flow: Followed) -> None:
        self._begin = next((_own(each) for each in flow.sightings if flow.counted), None)
        self._services: dict[str, list[str]] = {}
        self._rules: dict[tuple[str, str, int], str] = {}
        self._programs: dict[tuple[str, str], str] = {}
        self._nodes = {each.name: each.node for each in flow.namespaces}
        self._elements = flow.elements
        self._begun: set[tuple[str, ...]] = set()
        for fact in flow.facts:
            if fact.kind == "ipvs":
                self._services.setdefault(fact.namespace, []).append(fact.name)
            elif fact.kind == "rule":
                self._rules[fact.namespace, fact.name, fact.number] = fact.value
            elif fact.kind == "program":
                self._programs[fact.namespace, fact.name] = fact.value

    def instructions(self, at: Sighting) -> int | None:
        """Return how many were executed from the flow's first sighting to this one; None by another clock."""
        return max(0, _own(at) - self._begin) if self._begin is not None else None

    def decider(self, met: Context, each: Sighting) -> str:
        """Return what has changed a packet after it was seen at a place, and before it was seen again."""
        last = met.last
        if last.place == _AT_HOOKS and each.tracked.startswith("related"):
            return BY_CONNECTION  # an ICMP error (net/netfilter/nf_nat_core.c, nf_nat_icmp_reply_translation)
        if last.place == TRANSLATION:
            return met.ruleset if met.ruleset and last.tracked.startswith("new") else BY_CONNECTION
        if last.place in RULESETS:
            return met.ruleset
        if last.place in HOOKS or last.place == CLASSIFIER:
            name = self._programs.get((last.namespace, f"{last.device} {met.hook}"))
            return f"{BY_PROGRAM} {name}" if name else BY_PROGRAM
        return ", ".join(filter(None, (OF_IPVS.get(last.place, last.place), self._service(last))))

    def of_cgroup(self, call: Sighting) -> str:
        """Return the program of a cgroup that has changed an address of a socket's."""
        return ", ".join(filter(None, (BY_CGROUP, self._programs.get((call.namespace, call.hook)))))

    def _service(self, last: Sighting) -> str:
        """Return what selects the service of IPVS that a packet is for: its mark, or its destination."""
        known = self._services.get(last.namespace, ()) if last.place in OF_IPVS else ()
        keys = f"mark {last.mark:#x}", f"{last.protocol} {last.destination}"
        return next((key for key in keys if key in known), "")

    def rules(self, met: Context) -> list[str]:
        """Return the texts of the rules that have acted on a packet; of one that was not read, its number."""
        keys = [(each.namespace, each.ruleset, each.rule) for each in met.rules]
        return list(dict.fromkeys(self._rules.get(key) or f"number {key[2]}" for key in keys))

    def elements(self, at: Sighting, before: Sequence[str], after: Sequence[str]) -> list[str]:
        """Return the elements of maps that explain a rewrite. It is asked for each rewrite once, in their order."""
        key = at.namespace, at.protocol, *before
        stage: Stage = "fragment" if at.fragment else "later" if key in self._begun else "first"
        self._begun.add(key)
        here = [each for each in self._elements if each.node == self._nodes.get(at.namespace)]
        found = (each.text for each in here if each.explains(at.protocol, stage, before, after))
        return list(dict.fromkeys(found))


def _own(each: Sighting) -> int:
    """Return when a packet was seen, without the time that following it has taken."""
    return each.time - each.spent
