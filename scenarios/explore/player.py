"""Operations as a lab makes them: services are programmed, containers come and go, flows are used.

The backends' containers stand from the beginning, and the services of a sequence are made of their addresses. So a
change is the plane's work alone. No VIP and no source port is used by two sequences, so an entry that one leaves behind
means nothing to the next.
"""

from __future__ import annotations

import errno
import time
from itertools import count

from msgspec.structs import replace

from dataplanes.errors import BenchError
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Backend, Port, Service
from scenarios.explore import operations as do
from scenarios.explore.operations import BACKENDS, DONE, AnyOperation, Sight
from scenarios.explore.sockets import PORT, Sockets, container_of
from scenarios.flush import flush_all
from scenarios.stopwatch import Steadiness, kept_waiting
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec, Task

SCENARIO = "explore"
_NETWORK = "my-network"
_VIPS, _BLOCK = 60_000, 250
_STARVED = 0.5
"""The seconds for which the last operation may have waited for a processor. The next SYN comes after a second."""


class Player:
    """Plays sequences on a lab of the scenario `explore`, one after another."""

    def __init__(self, testbed: Testbed, *, any_port: bool) -> None:
        """Create the player. A plane that does not serve any port is told the ports of the servers."""
        self._testbed = testbed
        self._ports = () if any_port else (Port("tcp", PORT), Port("udp", PORT))
        self._numbers = count(1)
        self._vips: dict[str, str] = {}  # of the services of this sequence, those that are removed included
        self._services: dict[str, Service] = {}
        self._crashed: set[str] = set()
        self._missed = False  # whether any container has crashed in this sequence
        self._sockets = Sockets(testbed, BACKENDS)
        self.error = ""  # the error of the last operation, if the plane refused it
        self.begin()

    def begin(self) -> None:
        """Begin a sequence."""
        self._vips.clear()
        self._missed = False
        self._begun = time.monotonic()
        self._machine = Steadiness(queues=True)
        self._waited = kept_waiting()

    def disturbance(self) -> str:
        """Return what the machine did since the sequence began that makes nothing of what was seen sure, or ""."""
        if (starved := kept_waiting() - self._waited) > _STARVED:
            return f"the last operation waited {starved:.1f} s for a processor"
        return str(self._machine.broken() or "")

    def end(self) -> None:
        """Undo what the sequence has made. Raises BenchError if the plane refuses."""
        self._sockets.clear()
        services, self._services = list(self._services.values()), {}
        if services:
            self._testbed.withdraw(services)
        for name in BACKENDS:
            if name in self._crashed:
                self._restore(name)
            self._sockets.listen(name)
        if self._missed:
            self._forget_sought()

    def _forget_sought(self) -> None:
        """Have every namespace forget whom it has asked for in vain.

        ARP asks three times, a second apart, and then refuses all packets that wait (net/core/neighbour.c,
        neigh_timer_handler), also those that came after the third question, when the address was there again.
        """
        for _, _, name in self._testbed.namespaces():
            with Rtnl(name) as rtnl:
                rtnl.send(rtnl.sought(), ignore=(errno.ENOENT,))  # it was removed meanwhile

    def close(self) -> None:
        """Close every socket."""
        self._sockets.close()

    @property
    def now(self) -> float:
        """The seconds since the sequence began."""
        return time.monotonic() - self._begun

    def play(self, operation: AnyOperation, *, patient: bool) -> Sight:
        """Make an operation, and return what is seen. What should come is waited for longer, if `patient`."""
        self.error = ""
        self._waited = kept_waiting()
        try:
            return self._flow(operation, patient) or self._change(operation)
        except BenchError as error:
            self.error = str(error)
            return Sight("failed")

    # -- flows ----------------------------------------------------------------------------------------------------

    def _flow(self, operation: AnyOperation, patient: bool) -> Sight | None:
        """Make an operation on a flow. Return None for any other operation."""
        flows = self._sockets
        match operation:
            case do.Visit(client=client, to=to):
                return flows.call(client, self._target(to), patient=patient)
            case do.Connect(flow=number, client=client, to=to, again=again):
                return flows.connect(number, client, self._target(to), again=again, patient=patient)
            case do.Ask(flow=number, client=client, to=to, connected=connected, again=again):
                address = self._target(to)
                return flows.ask(number, client, address, connected=connected, again=again, patient=patient)
            case do.Speak(flow=number, by=by):
                return flows.speak(number, by, patient=patient)
            case do.HalfClose(flow=number, by=by):
                return flows.half_close(number, by, patient=patient)
            case do.Close(flow=number, by=by):
                return flows.finish(number, by, patient=patient)
            case do.Abort(flow=number, by=by):
                return flows.abort(number, by, patient=patient)
        return None

    def _target(self, to: str) -> str:
        if to in BACKENDS:
            return self._address(to)
        if to not in self._vips:
            number = next(self._numbers) % _VIPS
            self._vips[to] = f"10.0.{1 + number // _BLOCK}.{1 + number % _BLOCK}"
        return self._vips[to]

    def _address(self, backend: str) -> str:
        return self._testbed.containers[container_of(backend)].endpoints[0].address

    # -- changes --------------------------------------------------------------------------------------------------

    def _change(self, operation: AnyOperation) -> Sight:
        match operation:
            case do.Stop(backend=backend):
                self._sockets.stop(backend)
            case do.Start(backend=backend):
                self._sockets.listen(backend)
            case do.Crash(backend=backend):
                self._testbed.crash(container_of(backend))
                self._sockets.lose(backend)
                self._crashed.add(backend)
                self._missed = True
            case do.Restore(backend=backend):
                self._restore(backend)
            case do.Flush():
                self._sockets.acknowledge()
                flush_all(self._testbed)
                self._testbed.resync()
            case do.Resync():
                self._testbed.resync()
            case do.Restart():
                self._sockets.acknowledge()
                self._testbed.reinstall()
                self._testbed.apply(list(self._services.values()))
            case do.Idle(seconds=seconds):
                time.sleep(seconds)
            case _:
                self._program(operation)
        return DONE

    def _program(self, operation: AnyOperation) -> None:
        match operation:
            case do.Create(service=service, backends=number):
                name = f"{service}-{next(self._numbers)}"  # a new service, even if it gets its predecessor's VIP
                backends = tuple(Backend(self._address(each)) for each in BACKENDS[:number])
                self._apply(service, Service(name, _NETWORK, self._target(service), backends, self._ports))
            case do.Add(service=service, backend=backend):
                self._weigh(service, backend, 1)
            case do.Drain(service=service, backend=backend):
                self._weigh(service, backend, 0)
            case do.Remove(service=service, backend=backend):
                self._weigh(service, backend, None)
            case do.Delete(service=service):
                self._testbed.withdraw([self._services.pop(service)])

    def _weigh(self, service: str, backend: str, weight: int | None) -> None:
        """Give a backend of a service a weight, or remove it from the service."""
        known, address = self._services[service], self._address(backend)
        weights = {each.address: each.weight for each in known.backends}
        if weight is None:
            del weights[address]
        else:
            weights[address] = weight
        self._apply(service, replace(known, backends=tuple(Backend(*each) for each in weights.items())))

    def _apply(self, service: str, wanted: Service) -> None:
        self._services[service] = wanted
        self._testbed.apply([wanted])

    def _restore(self, backend: str) -> None:
        """Create a container that crashed anew, with the address and on the node that it had."""
        spec = self._testbed.scenario.service(backend)
        (task,) = spec.tasks
        self._testbed.remove_service(backend)
        again = Task(task.name, task.node, task.address)
        self._testbed.create_service(ServiceSpec(backend, spec.network, spec.vip, tasks=[again], ports=spec.ports))
        self._crashed.discard(backend)
        self._sockets.listen(backend)
