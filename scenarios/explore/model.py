"""What a service VIP promises, as a model that runs: what may be seen after each operation of a sequence.

It is pure: `allowed` says what may be seen after an operation, and `take` goes on with what was seen. Nearly everything
follows from the places to which a flow's next packet may go. What a plane lacks is a parameter: checks that fail on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from math import inf

from msgspec import Struct

from scenarios.explore import operations as do
from scenarios.explore.operations import ARRIVED, BACKENDS, CALLERS, DONE, REFUSED, RESET, SILENCE, AnyOperation, Sight

Sights = frozenset[Sight]
Places = frozenset[str]
ANEW, LOST, NOWHERE = "anew", "lost", "nowhere"
"""Where a flow's next packet may go, besides to backends. anew: where a new flow's first one goes. lost: to nobody, and
the next one goes on. nowhere: to nobody, for something still knows the flow."""
STALE = {"change.udp-before-service", "change.udp-zero-and-back"}  # where they fail, an entry without a backend lasts
UNHEARD = Sights({SILENCE, REFUSED})
"""The sights of a client whose datagram nobody answers. ICMP errors are limited in number, so it may be told or not."""
UDP_KEPT, HALF_KEPT, TCP_KEPT, LONG_KEPT = 25.0, 200.0, 600.0, 3600.0
"""The seconds without a packet after which every plane still knows a UDP flow (idle.udp-late-answer) and a connection
(idle.slow-server), and those on which idle.half-closed or idle.tcp-1h holds a connection."""
RESET_KEPT = 10.0
"""The seconds for which planes take a connection for the reset one from its port (tcp_timeouts in the kernel)."""
UNKNOWN = 4.0
"""The seconds for which an address may stay unknown that nobody had: three probes of ARP (net/ipv4/arp.c, arp_tbl)."""


class Flow(Struct):
    """A TCP connection, or what one UDP socket sends."""

    udp: bool
    client: str
    to: str
    connected: bool = False  # it is a connected UDP socket
    again: bool = False  # its port is that of an earlier flow
    places: Places = Places({ANEW})  # where its next packet may go
    backend: str = ""  # the backend that has answered it; "" if none
    used: float = 0.0  # when something was sent last, in seconds since the sequence began
    closed: frozenset[str] = frozenset()  # the ends that have closed their half
    gone: bool = False  # its backend's container is gone
    over: bool = False
    lingers: float = 0.0  # until when a plane may know it although it is over
    # The client closed first, this time or before, so its end waits. From the same port it goes on far ahead in the
    # sequence numbers (net/ipv4/tcp_ipv4.c, tcp_twsk_unique). The next time a backend may take its SYN for an old one.
    waits: bool = False


class Turns:
    """The turns of one service, as one client sees them who makes one connection after another.

    A backend gets no second connection before every other one that was there all the time has had one. So a balancer
    that begins anew with each change is noticed, and one that goes on, in any order, is not.
    """

    def __init__(self) -> None:
        self._able: set[str] = set()
        self._before: dict[str, set[str]] = {}  # backend -> those that must have a turn before its next one
        self._who: tuple[str, bool] | None = None  # who made the last connection, and whether by UDP

    def known(self, able: Collection[str]) -> None:
        """Take note of the backends that may get connections now."""
        self._able = set(able)
        self._before = {name: others & self._able for name, others in self._before.items() if name in self._able}

    def due(self, who: tuple[str, bool]) -> set[str]:
        """Return the backends that may get the next connection of this client. Others may share its turns, or not."""
        return {name for name in self._able if who != self._who or not self._before.get(name)}

    def taken(self, who: tuple[str, bool], backend: str) -> None:
        """Take note of a connection that a backend got."""
        known = self._before if who == self._who else {}
        self._before = {name: others - {backend} for name, others in known.items()}
        self._before[backend], self._who = self._able - {backend}, who


class Model:
    """The services, the backends and the flows after the operations so far, and what may be seen after the next."""

    def __init__(self, lacks: Collection[str] = (), *, in_turn: bool = True) -> None:
        """`lacks` are the names of checks that do not hold on the plane. It chooses in turn or at random."""
        self._lacks, self._in_turn = frozenset(lacks), in_turn
        self.services: dict[str, dict[str, int]] = {}  # service -> its backends' weights
        self.down: dict[str, str] = {}  # backends that cannot serve, and why: "crashed" or "stopped"
        self.flows: dict[int, Flow] = {}
        self._turns: defaultdict[str, Turns] = defaultdict(Turns)
        self._vain: dict[str, float] = {}  # when a service or a backend could not be reached for the last time
        self._now = 0.0

    def lives(self, container: str) -> bool:
        """Return True unless the container has crashed."""
        return self.down.get(container) != "crashed"

    def unknown(self) -> set[str]:
        """Return the services and backends whose addresses may be unknown, so that packets to them wait."""
        return {name for name, when in self._vain.items() if self._now - when < UNKNOWN}

    def _flow(self, operation: do.Opening | do.Using) -> Flow:
        """Return the flow that an operation opens or uses. From the same port it may go on as one that nobody ended."""
        if isinstance(operation, do.Using):
            return self.flows[operation.flow]
        flow = Flow(operation.udp, operation.client, operation.to, operation.connected, operation.again)
        if last := self.flows.get(operation.flow) if flow.again else None:
            flow.waits = last.waits
            if last.to == flow.to and (flow.udp or not last.backend):  # an unanswered connection is one all the same
                flow.places, flow.used = last.places | {ANEW}, last.used
        return flow

    # -- what may be seen -----------------------------------------------------------------------------------------

    def allowed(self, operation: AnyOperation) -> Sights:
        """Return what may be seen after the operation."""
        if not isinstance(operation, do.Opening | do.Using):
            return Sights({DONE})
        flow = self._flow(operation)
        if isinstance(operation, do.Using) and not flow.udp:
            return self._sent(flow, operation.by, operation.comes)
        if isinstance(operation, do.Close):
            return Sights({DONE})
        if operation.by == "backend":
            known = self._places(flow) == {flow.backend}
            return Sights({ARRIVED} if known else {ARRIVED, Sight("astray", flow.backend), *UNHEARD})
        found = self._reached(flow)
        return found | self._besides(found, flow, self.flows[operation.flow]) if flow.again and not flow.udp else found

    def _reached(self, flow: Flow) -> Sights:
        """Return what a client may see that opens a flow, or asks by UDP."""
        lost, found = UNHEARD if flow.udp else Sights({SILENCE}), set[Sight]()
        served = flow.to in self.services or flow.to in BACKENDS
        for place in self._places(flow):
            known = place not in (LOST, NOWHERE) and (served or place != ANEW)
            found |= self._first(flow, {place} - {ANEW} or self._able(flow)) if known else lost
        if flow.udp and flow.again and flow.to in BACKENDS and "identity.direct-after-vip-udp" in self._lacks:
            found.add(Sight("astray", flow.to))
        lasts = {"change.udp-moves-connected"} if flow.connected else STALE
        if (NOWHERE in flow.places or not served) and flow.udp and lasts & self._lacks:
            found |= {Sight("astray", each.by) for each in found if each.by}  # its own address is the source
        return Sights(found | lost if found & lost else found)

    def _able(self, flow: Flow) -> set[str]:
        """Return the backends that may get a new flow."""
        if flow.to in BACKENDS:
            return {flow.to}
        able = {name for name, weight in self.services.get(flow.to, {}).items() if weight}
        first = self._in_turn and not flow.again and not flow.backend
        return able & self._turns[flow.to].due((flow.client, flow.udp)) if first else able

    def _first(self, flow: Flow, able: Collection[str]) -> set[Sight]:
        """Return what a client may see whose packet goes to one of these backends."""
        unknown = self.unknown()
        found = (set() if able else {REFUSED}) | ({SILENCE} if flow.to in unknown else set())
        for name in able:
            found.add({"stopped": REFUSED, "crashed": SILENCE}.get(self.down.get(name, ""), Sight("answered", name)))
            found |= {SILENCE, Sight("late", name)} if unknown & {name, flow.to} else set()
        # If the first packet is lost, the next one may be taken for the first.
        then = {} if all(map(self.lives, able)) else self.services.get(flow.to, {})
        return found | {Sight("late", name) for name in then if then[name] and name not in self.down}

    def _besides(self, found: Sights, flow: Flow, last: Flow) -> Sights:
        """Return what may be seen besides when a connection comes from the port of the last one."""
        late = Sights(Sight("late", each.by) for each in found if each.kind == "answered")
        if last.to != flow.to:  # identity.direct-after-vip: it takes two SYNs at most
            return late | (UNHEARD if "identity.direct-after-vip" in self._lacks else Sights())
        known = last.backend and (last.backend in last.places or "change.delete-is-noticed" in self._lacks)
        same = {Sight(kind, last.backend) for kind in ("answered", "late") if known and self._now < last.lingers}
        kept = {"change.connect-before-service", "change.udp-zero-and-back", "change.delete-is-noticed"}
        stale = not last.backend and self._lacks & kept  # what was known of it when nobody answered may hold for this
        lost = UNHEARD if stale or "client.refused-before" in self._lacks else Sights()
        return lost | same | (late if lost or last.waits else Sights())

    def _sent(self, flow: Flow, by: str, comes: Sight) -> Sights:
        """Return what may be seen when one end of a connection sends, closes or resets."""
        places = self._places(flow)
        if flow.gone or places == {flow.backend}:
            return Sights({SILENCE, RESET} if flow.gone else {comes})
        again = flow.backend in places or flow.backend in self.services.get(flow.to, {})
        if by == "backend" or comes == RESET or again or "change.delete-is-noticed" in self._lacks:
            return Sights({comes, RESET, SILENCE})
        # Connection tracking takes no FIN for a new connection (nf_conntrack_proto_tcp.c, tcp_conntracks). What it
        # takes for one may go to a backend that is gone. No container here is a task, which would have the VIP.
        mute = NOWHERE in places or comes != ARRIVED or "change.delete-is-noticed-afar" in self._lacks
        return Sights({RESET, SILENCE} if mute or not all(map(self.lives, self._able(flow))) else {RESET})

    def _places(self, flow: Flow) -> Places:
        """Return where the flow's next packet may go. A plane may have forgotten one that was quiet for long."""
        kept = UDP_KEPT if flow.udp else TCP_KEPT if "idle.tcp-1h" in self._lacks else LONG_KEPT
        for end, check in (("client", "idle.half-closed"), ("backend", "idle.half-closed-by-server")):
            if end in flow.closed:
                kept = UDP_KEPT if check in self._lacks else min(kept, HALF_KEPT)
        return flow.places | {ANEW} if self._now - flow.used > kept and flow.to not in BACKENDS else flow.places

    # -- what was seen --------------------------------------------------------------------------------------------

    def take(self, operation: AnyOperation, seen: Sight, now: float) -> None:
        """Go on with what was seen. `now` is the time in seconds since the sequence began."""
        self._now = now
        if isinstance(operation, do.Opening | do.Using):
            self._went_on(operation, self._flow(operation), seen)
        elif isinstance(operation, do.Stop | do.Start | do.Crash | do.Restore):
            self._came_or_went(operation)
        else:
            self._changed(operation)
        for service, weights in self.services.items():
            self._turns[service].known([name for name, weight in weights.items() if weight])

    def _went_on(self, operation: do.Opening | do.Using, flow: Flow, seen: Sight) -> None:
        """Go on with a flow that was opened or used."""
        places, able, self.flows[operation.flow] = self._places(flow), self._able(flow), flow
        self._take_turn(operation, flow, seen, places)
        if seen == SILENCE:  # nobody was found at the address, or at that of a backend whose container is gone
            missed = [name for name in self.down if not self.lives(name)] if flow.to in self.services else [flow.to]
            self._vain.update(dict.fromkeys(missed, self._now))
        flow.over = isinstance(operation, do.Visit | do.Close | do.Abort)
        flow.over |= not flow.udp and seen in UNHEARD | {RESET}
        if seen == RESET or isinstance(operation, do.Abort):
            flow.lingers = self._now + RESET_KEPT
        if seen.kind in ("answered", "late"):
            flow.backend, flow.places = seen.by, Places({seen.by})
        elif operation.by == "client" if flow.udp else seen == SILENCE and not flow.backend:  # it may go there again
            lasting = {NOWHERE} if STALE & self._lacks and not able else able
            flow.places = flow.places - {LOST} | (lasting if ANEW in places else set())
        elif not flow.over and places != {flow.backend}:
            flow.places |= {ANEW, flow.backend}
        if isinstance(operation, do.HalfClose | do.Close):
            flow.waits = flow.waits or (operation.by == "client" and not flow.closed)
            flow.closed |= {operation.by}
        if operation.by == "client" or not flow.udp or ANEW not in places:  # a late answer makes no flow known again
            flow.used = self._now

    def _take_turn(self, operation: do.Opening | do.Using, flow: Flow, seen: Sight, places: Places) -> None:
        """Take note of a turn. What failed, or may have been taken for a new flow's packet, may have had one."""
        # A backend that answers itself may have to send that to the VIP, from which it was asked.
        sends = operation.by == "client" or ("identity.hairpin-source" in self._lacks and flow.client == flow.backend)
        if isinstance(operation, do.Opening) and not flow.again and seen.kind == "answered":
            self._turns[flow.to].taken((flow.client, flow.udp), seen.by)
        elif sends and (ANEW in places or (flow.udp and not seen.by and seen != DONE)):
            self._turns.pop(flow.to, None)

    def _came_or_went(self, operation: do.Stop | do.Start | do.Crash | do.Restore) -> None:
        backend, anew = operation.backend, isinstance(operation, do.Restore)
        self.down.pop(backend, None)
        if isinstance(operation, do.Stop | do.Crash):
            self.down[backend] = "stopped" if isinstance(operation, do.Stop) else "crashed"
        for flow in self.flows.values():
            if flow.udp and backend in flow.places and (anew or not self.lives(backend)):
                flow.places |= {ANEW, LOST} if anew else {ANEW}
            if not self.lives(backend):
                flow.gone = flow.gone or flow.backend == backend
                if backend in (flow.client, flow.backend) and not flow.over:
                    flow.lingers = inf  # nobody was told, or what is sent again is reset when the address is back
                flow.over |= flow.client == backend
        if anew and backend in CALLERS:
            self._turns.clear()  # its namespace may have turns of its own

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
                    flow.places |= {NOWHERE} if flow.to == service and flow.backend and not flow.udp else set()
            case do.Resync() | do.Flush() | do.Restart():
                self._restored(operation)

    def _leave(self, service: str, backend: str, *, drained: bool = False) -> None:
        """Take note that a backend gets no new flows of a service, or none at all."""
        forgets = not drained or "change.drain" in self._lacks
        for flow in [each for each in self.flows.values() if each.to == service]:
            if flow.udp and (backend in flow.places or not flow.backend):  # unanswered, it may be this one's, too
                check = "drain-udp" if drained else "udp-moves-connected" if flow.connected else "udp-moves"
                known = {backend, NOWHERE} if f"change.{check}" in self._lacks else {LOST}
                flow.places = flow.places - {backend} | {ANEW} | known
            elif flow.backend == backend and not flow.udp and not flow.gone and forgets:
                flow.places = Places({ANEW}) if flow.places == {backend} else flow.places | {ANEW, backend}
            elif not (flow.udp or flow.backend or drained):
                flow.places -= {backend}

    def _restored(self, operation: do.Resync | do.Flush | do.Restart) -> None:
        self._turns.clear()
        lost = isinstance(operation, do.Restart) or "change.flush-established" in self._lacks
        for flow in self.flows.values() if not isinstance(operation, do.Resync) else ():
            if flow.udp or (lost and flow.backend and flow.to not in BACKENDS):
                flow.places |= {ANEW, NOWHERE if flow.udp else flow.backend}
