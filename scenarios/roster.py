"""The services of a running lab: their tasks, ports and weights, as a data plane and the resolver are told them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from dataplanes.kernel.undo import Undo
from dataplanes.model import Backend, Port, Service
from scenarios import ports
from scenarios.topology import ServiceSpec


class Roster:
    """Every service as it is now."""

    def __init__(self, usual: tuple[Port, ...]) -> None:
        """`usual` are the ports of a service that declares none; () gives it every port."""
        self.specs: dict[str, ServiceSpec] = {}
        self.drained: set[str] = set()  # the names of tasks
        self._usual = usual
        self._more: dict[str, list[Port]] = {}  # service -> the ports that it has come to declare

    def service(self, name: str) -> Service:
        """Return a service as a data plane sees it."""
        spec = self.specs[name]
        weights = {task.address: 0 if task.name in self.drained else task.weight for task in spec.tasks}
        backends = tuple(Backend(address, weight) for address, weight in weights.items())
        return Service(name, spec.network, spec.vip, backends, self._ports(spec))

    def declare(self, name: str, port: Port, tell: Callable[[Service], None]) -> None:
        """Give a service one port more, and tell of it, unless it has the port already.

        What is refused, so that `tell` raises, stays as it was.
        """
        declared = self._ports(self.specs[name])
        if not declared or port in declared:
            return
        more = self._more.setdefault(name, [])
        with Undo() as undo:
            more.append(port)
            undo(partial(more.remove, port))
            tell(self.service(name))

    def forget(self, name: str) -> ServiceSpec:
        """Remove a service."""
        self._more.pop(name, None)
        return self.specs.pop(name)

    def records(self) -> dict[str, dict[str, list[str]]]:
        """Return the names that resolve, by network, each with its addresses."""
        found: dict[str, dict[str, list[str]]] = {}
        for name, spec in self.specs.items():
            if spec.tasks:
                names = found.setdefault(spec.network, {})
                names[name] = [spec.vip]
                names[f"tasks.{name}"] = [task.address for task in spec.tasks]
        return found

    def _ports(self, spec: ServiceSpec) -> tuple[Port, ...]:
        return (*(ports.parse(spec.ports) or self._usual), *self._more.get(spec.name, ()))


def next_name(service: str, containers: Iterable[str]) -> str:
    """Return the name of a service's next task: the number after those that containers with such names have."""
    ends = [name.removeprefix(f"{service}.") for name in containers]
    return f"{service}.{max((int(each) for each in ends if each.isdecimal()), default=0) + 1}"
