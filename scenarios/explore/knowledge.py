"""What is known after the operations so far: services, backends and flows, and which operations make sense now."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from scenarios.explore import operations as do
from scenarios.explore.flow import TCP_KEPT, UDP_KEPT, Flow
from scenarios.explore.operations import BACKENDS, CALLERS, REFUSED, RESET, SILENCE, AnyOperation, Sight
from scenarios.explore.turns import Turns


class Knowledge:
    """The services, the backends and the flows after the operations so far."""

    def __init__(self, lacks: Collection[str] = (), *, in_turn: bool = True, hairpins: bool = True) -> None:
        """`lacks` are the names of checks that do not hold on the plane. It chooses in turn or at random.

        Without `hairpins` a backend calls no service: its plane needs the VIP to be an address of the container.
        """
        self._lacks, self._in_turn, self._hairpins = frozenset(lacks), in_turn, hairpins
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
                return self._may_call(operation.client, operation.to)
            case do.Connect() | do.Ask():
                before = self.flows.get(operation.flow)
                alike = before is not None and before.who == self._opened(operation).who
                free = before is None or before.over
                return free and self._may_call(operation.client, operation.to) and (alike or not operation.again)
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
            return isinstance(operation, do.Speak) and flow.asked and flow.backend not in self.down
        return flow.fate != "gone"

    def _may_call(self, client: str, to: str) -> bool:
        return client != to and self._lives(client) and (self._hairpins or client not in BACKENDS or to in BACKENDS)

    def _lives(self, container: str) -> bool:
        return self.down.get(container) != "crashed"

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
                    flow.vanished = flow.vanished or (flow.client == backend and not flow.over)
                    flow.over = flow.over or flow.client == backend
            case do.Start() | do.Restore():
                del self.down[backend]
                if isinstance(operation, do.Restore) and backend in CALLERS:  # its namespace may have turns of its own
                    for turns in self._turns.values():
                        turns.begin_anew()
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
        flow.waits = operation.again and before is not None and before.waits
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
            self._heard(flow, seen, first=True)
        else:
            flow.backend, flow.over = seen.by, not seen.by

    def _chosen(self, flow: Flow, seen: Sight, *, again: bool = False) -> None:
        """Take note of a turn. Of a connection that failed, or from the same port, nobody knows whether it had one."""
        if flow.to in self.services:
            if seen.kind == "answered" and not again:
                self._turns[flow.to].taken(flow.who, seen.by)
            else:
                self._turns[flow.to].begin_anew()

    def _heard(self, flow: Flow, seen: Sight, *, first: bool = False) -> None:
        """Go on with a UDP flow whose client has asked. The first time it is known whether it took a turn."""
        pinned = flow.fate == "whole" and not self._forgotten(flow)
        if flow.to in self.services and (flow.backend or not first) and not (pinned and seen.by == flow.backend):
            self._turns[flow.to].begin_anew()
        if seen.kind == "answered":
            flow.backend, flow.fate, flow.stays, flow.loses, flow.asked = seen.by, "whole", False, 0, True
        elif flow.loses:
            flow.loses -= 1

    def _went_on(self, operation: do.Speak | do.HalfClose | do.Close | do.Abort, flow: Flow, seen: Sight) -> None:
        if flow.fate == "cut" and operation.by == "client" and flow.to in self.services:
            self._turns[flow.to].begin_anew()  # what it sends may be taken for a new connection's first packet
        if flow.udp and isinstance(operation, do.Speak):
            if operation.by == "client":
                self._heard(flow, seen)
            elif "identity.hairpin-source" in self._lacks and flow.client == flow.backend and flow.to in self.services:
                self._turns[flow.to].begin_anew()  # it is sent to the VIP, from which it was asked, and may take a turn
        elif seen in (SILENCE, RESET, REFUSED) or isinstance(operation, do.Close | do.Abort):
            flow.over = True
            flow.reset = seen == RESET or isinstance(operation, do.Abort)
        elif flow.fate != "whole" or self._forgotten(flow):
            flow.fate = "unsure"
        if isinstance(operation, do.HalfClose | do.Close):
            flow.waits = flow.waits or (operation.by == "client" and not flow.closed)
            flow.closed |= {operation.by}
        if not (flow.udp and operation.by == "backend" and self._forgotten(flow)):  # that makes no flow known again
            flow.used = self._now

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
