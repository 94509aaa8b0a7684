"""What a service VIP promises, as a model that runs: what may be seen after each operation of a sequence.

It is pure. `may` says whether an operation makes sense now, `allowed` what may be seen after it, and `take` goes on
with what was seen. What a plane does not have is a parameter: the checks that are expected to fail on it, by
expected.toml. Its statements are those of the checks in `scenarios.checks`, in any order and number.
"""

from __future__ import annotations

from collections.abc import Collection

from scenarios.explore import operations as do
from scenarios.explore.flow import RESET_KEPT, Flow
from scenarios.explore.knowledge import Knowledge
from scenarios.explore.operations import ARRIVED, BACKENDS, DONE, ENDED, REFUSED, RESET, SILENCE, AnyOperation, Sight

Sights = frozenset[Sight]
LOST: Sights = frozenset({SILENCE, REFUSED})
"""The sights of a client whose datagram nobody answers. ICMP errors are limited in number, so it may be told or not."""

UNKNOWN = 4.0
"""The seconds for which an address may stay unknown that nobody had: three probes of ARP (net/ipv4/arp.c, arp_tbl)."""


class Model(Knowledge):
    """What may be seen, given what is known."""

    def allowed(self, operation: AnyOperation) -> Sights:
        """Return what may be seen after the operation."""
        match operation:
            case do.Connect(flow=number, again=again):
                flow = self._opened(operation)
                found = self._first(flow, self._able(flow, in_turn=not again))
                return found | self._besides(found, flow, self.flows[number]) if again else found
            case do.Visit(client=client, to=to):
                flow = Flow(False, client, to)
                return self._first(flow, self._able(flow, in_turn=True))
            case do.Ask(again=again):
                return self._asked(self._opened(operation), known=again)
            case do.Speak(flow=number, by=by) if self.flows[number].udp:
                return self._asked(self.flows[number]) if by == "client" else self._answered(self.flows[number])
            case do.Speak(flow=number, by=by):
                return self._sent(self.flows[number], by, ARRIVED)
            case do.HalfClose(flow=number, by=by) | do.Close(flow=number, by=by) if not self.flows[number].udp:
                return self._sent(self.flows[number], by, ENDED)
            case do.Abort(flow=number, by=by):
                return self._sent(self.flows[number], by, RESET)
        return frozenset({DONE})

    def _able(self, flow: Flow, *, in_turn: bool) -> set[str] | None:
        """Return the backends that may get a new flow, or None if nobody has its address."""
        if flow.direct:
            return {flow.to}
        if flow.to not in self.services:
            return None
        if in_turn and self._in_turn:
            return self._turns[flow.to].due(flow.who)
        return {name for name, weight in self.services[flow.to].items() if weight}

    def _first(self, flow: Flow, able: Collection[str] | None) -> Sights:
        """Return what a client may see whose first packet goes to one of these backends."""
        if able is None:
            return LOST if flow.udp else frozenset({SILENCE})
        found: set[Sight] = set() if able else {REFUSED}
        for name in able:
            if name not in self.down:
                found.add(Sight("answered", name))
            else:
                found.add(REFUSED if self._lives(name) else SILENCE)
            if self._now - self._vain.get(name, -UNKNOWN) < UNKNOWN:
                found |= {SILENCE, Sight("late", name)}
        if self._now - self._vain.get(flow.to, -UNKNOWN) < UNKNOWN:
            found |= {SILENCE, *(Sight("late", name) for name in able)}
        return frozenset(found | LOST if flow.udp and found & LOST else found)

    def _besides(self, found: Sights, flow: Flow, before: Flow) -> Sights:
        """Return what may be seen besides when a connection comes from the port of the one before."""
        late, none = frozenset(Sight("late", each.by) for each in found if each.kind == "answered"), Sights()
        if before.to != flow.to:  # identity.direct-after-vip: it takes two SYNs at most
            return late | (LOST if "identity.direct-after-vip" in self._lacks else none)
        lives = before.vanished or (before.reset and self._now - before.used < RESET_KEPT)
        known = lives and before.backend and self._keeps(before)
        same = frozenset(Sight(kind, before.backend) for kind in ("answered", "late")) if known else none
        if "client.refused-before" in self._lacks:
            return same | late | LOST
        if not before.backend and self._lacks & {"change.connect-before-service", "change.udp-zero-and-back"}:
            return same | late | LOST  # nobody answered: what was known of it then may hold for this one
        return same | (late if before.waits else none)

    def _keeps(self, flow: Flow) -> bool:
        """Return True if the plane need not have forgotten a connection because its backend left the service."""
        return flow.fate != "cut" or "change.delete-is-noticed" in self._lacks

    def _sent(self, flow: Flow, by: str, comes: Sight) -> Sights:
        """Return what may be seen when one end of a connection sends, closes or resets."""
        if flow.fate == "unsure" or self._forgotten(flow):
            return frozenset({comes, RESET, SILENCE})
        if flow.fate == "gone":
            return frozenset({SILENCE, RESET})
        if flow.fate == "cut":
            again = flow.backend in self.services.get(flow.to, {})  # what it sends may be taken for a new connection's
            if by == "backend" or comes == RESET or again or "change.delete-is-noticed" in self._lacks:
                return frozenset({comes, RESET, SILENCE})
            # Connection tracking takes no FIN for a new connection (nf_conntrack_proto_tcp.c, tcp_conntracks). What it
            # takes for one may go to a backend whose container is gone.
            mute = flow.orphaned or comes == ENDED or not all(map(self._lives, self._able(flow, in_turn=False) or ()))
            return frozenset({RESET, SILENCE} if mute else {RESET})
        return frozenset({comes})

    def _asked(self, flow: Flow, *, known: bool = True) -> Sights:
        """Return what the client of a UDP flow may see when it asks. It is known if its port has asked before."""
        if "server.udp-answer" in self._lacks and not flow.direct:
            return LOST | {Sight(kind, name) for kind in ("answered", "astray") for name in BACKENDS}
        able = self._able(flow, in_turn=not flow.backend)
        if able is not None and flow.backend:
            if flow.fate == "whole" and not self._forgotten(flow):
                able = {flow.backend}
            elif flow.stays or flow.fate == "whole":
                able |= {flow.backend}
        found = self._first(flow, able)
        if flow.direct and known and "identity.direct-after-vip-udp" in self._lacks:
            found |= {Sight("astray", flow.to)}
        if known and not flow.backend and (drained := self._drained(flow.to)):
            found |= self._first(flow, drained)  # nobody has answered: it may stay with one that could not
        return found | LOST if flow.loses or flow.fate in ("gone", "unsure") else found

    def _drained(self, service: str) -> set[str]:
        """Return the drained backends of a service with which a UDP flow stays on this plane."""
        stays = "change.drain-udp" in self._lacks
        return {name for name, weight in self.services.get(service, {}).items() if stays and not weight}

    def _answered(self, flow: Flow) -> Sights:
        """Return what may be seen when the backend of a UDP flow sends once more."""
        if flow.fate == "whole" and not self._forgotten(flow) and "server.udp-answer" not in self._lacks:
            return frozenset({ARRIVED})
        return frozenset({ARRIVED, Sight("astray", flow.backend), *LOST})
