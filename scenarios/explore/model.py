"""What a service VIP promises, as a model that runs: what may be seen after each operation of a sequence.

It is pure. `may` says whether an operation makes sense now, `allowed` what may be seen after it, and `take` goes on
with what was seen. What a plane does not have is a parameter: the checks that are expected to fail on it, by
expected.toml. Its statements are those of the checks in `scenarios.checks`, in any order and number.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from scenarios.explore import operations as do
from scenarios.explore.flow import TCP_KEPT, UDP_KEPT, Flow
from scenarios.explore.operations import ARRIVED, BACKENDS, DONE, ENDED, REFUSED, RESET, SILENCE, AnyOperation, Sight
from scenarios.explore.turns import Turns

Sights = frozenset[Sight]
LOST: Sights = frozenset({SILENCE, REFUSED})
"""The sights of a client whose datagram nobody answers. ICMP errors are limited in number, so it may be told or not."""

UNKNOWN = 4.0
"""The seconds for which an address may stay unknown that nobody had: three probes of ARP (net/ipv4/arp.c, arp_tbl)."""


class Model:
    """The services, the backends and the flows after the operations so far."""

    def __init__(self, lacks: Collection[str] = (), *, in_turn: bool = True) -> None:
        """`lacks` are the names of checks that do not hold on the plane. It chooses in turn or at random."""
        self._lacks, self._in_turn = frozenset(lacks), in_turn
        self.services: dict[str, dict[str, int]] = {}  # service -> its backends' weights
        self.down: dict[str, Literal["crashed", "stopped"]] = {}  # backends that cannot serve
        self.flows: dict[int, Flow] = {}
        self._turns: dict[str, Turns] = {}
        self._vain: dict[str, float] = {}  # when a service or a backend could not be reached for the last time
        self._now = 0.0

    # -- what makes sense ---------------------------------------------------------------------------------------

    def may(self, operation: AnyOperation) -> bool:
        """Return True if the operation makes sense now."""
        match operation:
            case do.Visit():
                return operation.client != operation.to and self._lives(operation.client)
            case do.Connect() | do.Ask():
                before = self.flows.get(operation.flow)
                alike = before is not None and before.who == self._opened(operation).who
                free = before is None or before.over
                callable_ = operation.client != operation.to and self._lives(operation.client)
                return free and callable_ and (alike or not operation.again)
            case do.Speak() | do.HalfClose() | do.Abort() | do.Close():
                flow = self.flows.get(operation.flow)
                open_ = flow is not None and not flow.over and operation.by not in flow.closed
                return open_ and self._may_send(operation, self.flows[operation.flow])
        return self._may_change(operation)

    def _may_change(self, operation: AnyOperation) -> bool:
        match operation:
            case do.Create(service=service):
                return service not in self.services
            case do.Delete(service=service):
                return service in self.services
            case do.Add(service=service, backend=backend):
                return service in self.services and not self.services[service].get(backend)
            case do.Remove(service=service, backend=backend):
                return backend in self.services.get(service, {}) and len(self.services[service]) > 1
            case do.Drain(service=service, backend=backend):
                return bool(self.services.get(service, {}).get(backend))
            case do.Stop(backend=backend) | do.Crash(backend=backend):
                return backend not in self.down
            case do.Start(backend=backend):
                return self.down.get(backend) == "stopped"
            case do.Restore(backend=backend):
                return self.down.get(backend) == "crashed"
        return True

    def _may_send(self, operation: do.Speak | do.HalfClose | do.Abort | do.Close, flow: Flow) -> bool:
        if flow.udp and (isinstance(operation, do.HalfClose | do.Abort) or flow.fate == "gone"):
            return operation.by == "client" and isinstance(operation, do.Speak | do.Close)
        if operation.by == "client":
            return True
        if flow.udp:  # by the server's one socket, once it has been asked
            return isinstance(operation, do.Speak) and bool(flow.backend) and flow.backend not in self.down
        return flow.fate != "gone"

    def _lives(self, container: str) -> bool:
        return self.down.get(container) != "crashed"

    # -- what may be seen -----------------------------------------------------------------------------------------

    def allowed(self, operation: AnyOperation) -> Sights:
        """Return what may be seen after the operation."""
        match operation:
            case do.Connect(flow=number, again=again):
                flow, before = self._opened(operation), self.flows.get(number)
                found = self._first(flow, self._able(flow, in_turn=not again))
                late = {Sight("late", each.by) for each in found if each.kind == "answered"}
                if not again or not before:
                    return found
                if before.to == flow.to:
                    return found | (LOST | late if "client.refused-before" in self._lacks else frozenset())
                return found | late | (LOST if "identity.direct-after-vip" in self._lacks else frozenset())
            case do.Visit(client=client, to=to):
                flow = Flow(False, client, to)
                return self._first(flow, self._able(flow, in_turn=True))
            case do.Ask():
                return self._asked(self._opened(operation))
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

    def _sent(self, flow: Flow, by: str, comes: Sight) -> Sights:
        """Return what may be seen when one end of a connection sends, closes or resets."""
        if flow.fate == "unsure" or self._forgotten(flow):
            return frozenset({comes, RESET, SILENCE})
        if flow.fate == "gone":
            return frozenset({SILENCE, RESET})
        if flow.fate == "cut":
            if by == "backend" or comes == RESET or "change.delete-is-noticed" in self._lacks:
                return frozenset({comes, RESET, SILENCE})
            return frozenset({RESET, SILENCE} if flow.orphaned else {RESET})
        return frozenset({comes})

    def _asked(self, flow: Flow) -> Sights:
        """Return what the client of a UDP flow may see when it asks."""
        if "server.udp-answer" in self._lacks and not flow.direct:
            return LOST | {Sight(kind, name) for kind in ("answered", "astray") for name in BACKENDS}
        able = self._able(flow, in_turn=not flow.backend)
        if able is not None and flow.backend:
            if flow.fate == "whole" and not self._forgotten(flow):
                able = {flow.backend}
            elif flow.stays or flow.fate == "whole":
                able |= {flow.backend}
        found = self._first(flow, able)
        return found | LOST if flow.loses or flow.fate in ("gone", "unsure") else found

    def _answered(self, flow: Flow) -> Sights:
        """Return what may be seen when the backend of a UDP flow sends once more."""
        if flow.fate == "whole" and not self._forgotten(flow) and "server.udp-answer" not in self._lacks:
            return frozenset({ARRIVED})
        return frozenset({ARRIVED, Sight("astray", flow.backend), *LOST})

    def _forgotten(self, flow: Flow) -> bool:
        """Return True if the plane may have forgotten the flow, because it has carried nothing for so long."""
        return not flow.direct and self._now - flow.used > self._kept(flow)

    def _kept(self, flow: Flow) -> float:
        if flow.udp:
            return UDP_KEPT
        for end, check in (("client", "idle.half-closed"), ("backend", "idle.half-closed-by-server")):
            if end in flow.closed:
                return UDP_KEPT if check in self._lacks else 200.0
        return TCP_KEPT if "idle.tcp-1h" in self._lacks else 3600.0

    # -- what was seen --------------------------------------------------------------------------------------------

    def take(self, operation: AnyOperation, seen: Sight, now: float) -> None:
        """Go on with what was seen. `now` is the time in seconds since the sequence began."""
        self._now = now
        if seen == SILENCE:
            self._missed(operation)
        match operation:
            case do.Visit(client=client, to=to):
                self._chosen(Flow(False, client, to), seen)
            case do.Connect() | do.Ask():
                self._begun(operation, seen)
            case do.Speak() | do.HalfClose() | do.Close() | do.Abort():
                self._went_on(operation, self.flows[operation.flow], seen)
            case do.Resync() | do.Flush():
                self._restored(flushed=isinstance(operation, do.Flush))
            case do.Stop() | do.Start() | do.Crash() | do.Restore():
                self._came_or_went(operation)
            case _:
                self._changed(operation)
        for service, weights in self.services.items():
            self._turns[service].known([name for name, weight in weights.items() if weight])

    def _missed(self, operation: AnyOperation) -> None:
        """Take note that nobody was found at the address of a service, or of a backend whose container is gone."""
        if isinstance(operation, do.Visit | do.Connect | do.Ask | do.Speak | do.HalfClose | do.Close):
            to = operation.to if isinstance(operation, do.Visit | do.Connect | do.Ask) else self._to(operation.flow)
            missed = [to] if to not in self.services else [name for name in self.down if not self._lives(name)]
            self._vain.update(dict.fromkeys(missed, self._now))

    def _to(self, number: int) -> str:
        return self.flows[number].to

    def _changed(self, operation: AnyOperation) -> None:
        match operation:
            case do.Create(service=service, backends=count):
                self.services[service], self._turns[service] = dict.fromkeys(BACKENDS[:count], 1), Turns()
            case do.Add(service=service, backend=backend):
                self.services[service][backend] = 1
            case do.Drain(service=service, backend=backend):
                self.services[service][backend] = 0
                self._leave(service, backend, drained=True)
            case do.Remove(service=service, backend=backend):
                del self.services[service][backend]
                self._leave(service, backend)
            case do.Delete(service=service):
                for name in self.services.pop(service):
                    self._leave(service, name)
                for flow in self.flows.values():
                    flow.orphaned = flow.orphaned or flow.to == service

    def _came_or_went(self, operation: do.Stop | do.Start | do.Crash | do.Restore) -> None:
        backend, of_it = operation.backend, [each for each in self.flows.values() if each.backend == operation.backend]
        match operation:
            case do.Stop():
                self.down[backend] = "stopped"
            case do.Crash():
                self.down[backend] = "crashed"
                for flow in of_it:
                    flow.fate = "gone"
                for flow in self.flows.values():
                    flow.over = flow.over or flow.client == backend
            case do.Start() | do.Restore():
                del self.down[backend]
                for flow in of_it:
                    if flow.udp and flow.fate == "gone":
                        flow.fate, flow.stays, flow.loses = "cut", True, 1

    def _leave(self, service: str, backend: str, *, drained: bool = False) -> None:
        """Take note that a backend gets no new flows of a service, or none at all."""
        for flow in self.flows.values():
            if flow.to != service or flow.backend != backend or flow.fate == "gone":
                continue
            if flow.udp:
                check = "drain-udp" if drained else "udp-moves-connected" if flow.connected else "udp-moves"
                flow.stays = f"change.{check}" in self._lacks
                flow.fate, flow.loses = "unsure" if flow.stays else "cut", 1
            elif not drained or "change.drain" in self._lacks:
                flow.fate = "cut" if flow.fate == "whole" else "unsure"

    def _restored(self, *, flushed: bool) -> None:
        for turns in self._turns.values():
            turns.begin_anew()
        for flow in self.flows.values() if flushed else ():
            if flow.udp and flow.fate != "gone":
                flow.fate, flow.stays, flow.loses = "unsure", True, 1
            elif "change.flush-established" in self._lacks and not flow.direct:
                flow.fate = "unsure"

    def _opened(self, operation: do.Connect | do.Ask) -> Flow:
        """Return the flow that an operation opens. By UDP from the same port it may go on where the last one was."""
        udp, before = isinstance(operation, do.Ask), self.flows.get(operation.flow)
        flow = Flow(udp, operation.client, operation.to, isinstance(operation, do.Ask) and operation.connected)
        if udp and operation.again and before and before.to == flow.to:
            flow.backend, flow.used, flow.loses = before.backend, before.used, before.loses
            flow.stays = before.stays or before.fate == "whole"
            flow.fate = "cut" if before.fate == "whole" else before.fate
        return flow

    def _begun(self, operation: do.Connect | do.Ask, seen: Sight) -> None:
        flow = self.flows[operation.flow] = self._opened(operation)
        flow.used = self._now
        self._chosen(flow, seen, again=operation.again)
        if flow.udp:
            self._heard(flow, seen)
        else:
            flow.backend, flow.over = seen.by, not seen.by

    def _chosen(self, flow: Flow, seen: Sight, *, again: bool = False) -> None:
        """Take note of a turn. Of a connection that failed, or from the same port, nobody knows whether it had one."""
        if flow.to in self.services:
            if seen.kind == "answered" and not again:
                self._turns[flow.to].taken(flow.who, seen.by)
            else:
                self._turns[flow.to].begin_anew()

    def _heard(self, flow: Flow, seen: Sight) -> None:
        """Go on with a UDP flow whose client has asked."""
        pinned = flow.fate == "whole" and not self._forgotten(flow)
        if flow.to in self.services and flow.backend and not (pinned and seen.by == flow.backend):
            self._turns[flow.to].begin_anew()  # nobody knows whether it took a turn
        if seen.kind == "answered":
            flow.backend, flow.fate, flow.stays, flow.loses = seen.by, "whole", False, 0
        elif flow.loses:
            flow.loses -= 1

    def _went_on(self, operation: do.Speak | do.HalfClose | do.Close | do.Abort, flow: Flow, seen: Sight) -> None:
        if flow.udp and isinstance(operation, do.Speak):
            if operation.by == "client":
                self._heard(flow, seen)
        elif seen in (SILENCE, RESET, REFUSED) or isinstance(operation, do.Close | do.Abort):
            flow.over = True
        elif flow.fate != "whole":
            flow.fate = "unsure"
        if isinstance(operation, do.HalfClose):
            flow.closed |= {operation.by}
        flow.used = self._now
