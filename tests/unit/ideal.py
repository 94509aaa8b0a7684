"""A plane without a kernel: it does what a VIP promises, or has one fault. The search plays on it as on a lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from scenarios.explore import operations as do
from scenarios.explore.operations import (
    ARRIVED,
    BACKENDS,
    DONE,
    ENDED,
    REFUSED,
    RESET,
    SILENCE,
    AnyOperation,
    Sight,
)


class Line(Struct):
    """A flow as the plane knows it."""

    udp: bool
    client: str
    to: str
    backend: str
    open: bool = True
    lost: bool = False  # the container that it went to is gone


class Ideal:
    """The plane, as a player of sequences. Time goes on only while nothing happens."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.error = ""
        self.begin()

    def begin(self) -> None:
        self.now = 0.0
        self.services: dict[str, list[str]] = {}
        self.drained: set[tuple[str, str]] = set()
        self.last: dict[str, str] = {}  # the backend that had the last turn of a service
        self.down: dict[str, str] = {}
        self.flows: dict[int, Line] = {}
        self.spoke: dict[int, float] = {}

    def end(self) -> None:
        self.begin()

    def disturbance(self) -> str:
        return ""

    def play(self, operation: AnyOperation, *, patient: bool) -> Sight:
        seen = self._play(operation)
        if isinstance(operation, do.Connect | do.Ask | do.Speak):
            self.spoke[operation.flow] = self.now
        return seen

    def _play(self, operation: AnyOperation) -> Sight:
        match operation:
            case do.Visit():
                return self._asked(Line(False, operation.client, operation.to, ""))
            case do.Connect() | do.Ask():
                return self._opened(operation)
            case do.Speak() | do.HalfClose() | do.Close() | do.Abort():
                return self._sent(operation, self.flows[operation.flow])
            case do.Flush() if self.fault == "a flush loses connections":
                for flow in self.flows.values():
                    flow.backend = "" if not flow.udp else flow.backend
            case do.Idle(seconds=seconds):
                self.now += seconds
            case do.Stop() | do.Crash() | do.Start() | do.Restore():
                self._come_or_go(operation)
            case _:
                self._program(operation)
        return DONE

    def _come_or_go(self, operation: do.Stop | do.Crash | do.Start | do.Restore) -> None:
        if isinstance(operation, do.Start | do.Restore):
            del self.down[operation.backend]
            return
        self.down[operation.backend] = "stopped" if isinstance(operation, do.Stop) else "crashed"
        for flow in self.flows.values() if isinstance(operation, do.Crash) else ():
            flow.lost = flow.lost or flow.backend == operation.backend

    def _program(self, operation: AnyOperation) -> None:
        match operation:
            case do.Create(service=service, backends=count):
                self.services[service], self.last[service] = list(BACKENDS[:count]), ""
                self.drained = {each for each in self.drained if each[0] != service}
            case do.Add(service=service, backend=backend):
                if backend not in self.services[service]:
                    self.services[service].append(backend)
                kept = {(service, backend)} if self.fault == "a drained backend stays drained" else set()
                self.drained -= {(service, backend)} - kept
                self._changed(service)
            case do.Drain(service=service, backend=backend):
                if self.fault != "drains are ignored":
                    self.drained.add((service, backend))
                self._moved(service, backend)
                self._changed(service)
            case do.Remove(service=service, backend=backend):
                self._remove(service, backend)
                self.drained.discard((service, backend))
                self._moved(service, backend, removed=True)
                self._changed(service)
            case do.Delete(service=service):
                for name in self.services.pop(service):
                    self._moved(service, name, removed=True)

    def _remove(self, service: str, backend: str) -> None:
        order = self.services[service]
        if self.last[service] == backend:  # go on behind the one before it
            self.last[service] = order[order.index(backend) - 1]
        order.remove(backend)

    def _changed(self, service: str) -> None:
        if self.fault == "round robin begins anew":
            self.last[service] = ""

    def _moved(self, service: str, backend: str, *, removed: bool = False) -> None:
        for flow in self.flows.values():
            if flow.to == service and flow.backend == backend and (removed or flow.udp):
                if flow.udp and self.fault == "UDP flows stay":
                    continue
                if self.fault != "connections stay" or flow.udp:
                    flow.backend = ""

    def _chosen(self, to: str) -> str:
        """Return the backend whose turn it is, or "" if there is none."""
        if to in BACKENDS:
            return to
        able = [each for each in self.services[to] if (to, each) not in self.drained]
        if not able:
            return ""
        order, last = self.services[to], self.last[to]
        at = order.index(last) + 1 if last in order else 0
        chosen = next(each for each in (*order[at:], *order[:at]) if each in able)
        self.last[to] = chosen
        return chosen

    def _opened(self, operation: do.Connect | do.Ask) -> Sight:
        udp = isinstance(operation, do.Ask)
        flow = self.flows[operation.flow] = Line(udp, operation.client, operation.to, "")
        return self._asked(flow)

    def _asked(self, flow: Line) -> Sight:
        if flow.to not in BACKENDS and flow.to not in self.services:
            return SILENCE
        flow.backend = flow.backend or self._chosen(flow.to)
        state = self.down.get(flow.backend)
        if state is None and flow.backend:
            return Sight("answered", flow.backend)
        return SILENCE if state == "crashed" else REFUSED

    def _sent(self, operation: do.Speak | do.HalfClose | do.Close | do.Abort, flow: Line) -> Sight:
        if flow.udp and isinstance(operation, do.Close):
            return DONE
        forgets = self.fault == "idle connections are forgotten" and self.now - self.spoke[operation.flow] > 300
        if flow.udp:
            return self._asked(flow) if operation.by == "client" else ARRIVED if flow.backend else SILENCE
        if flow.lost:
            return SILENCE if self.down.get(flow.backend) == "crashed" else RESET
        if not flow.backend or forgets:
            return RESET
        return ARRIVED if isinstance(operation, do.Speak) else RESET if isinstance(operation, do.Abort) else ENDED


@contextmanager
def lab(fault: str = "") -> Iterator[Ideal]:
    """Yield a fresh plane, as the search's `lab` does."""
    yield Ideal(fault)
