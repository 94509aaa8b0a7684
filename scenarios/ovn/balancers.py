"""OVN's load balancers as the plane of a lab: what is told to the northbound database (ovn-nb(5), Load_Balancer)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dataplanes.base import Counter, DataPlane, Footprint
from dataplanes.errors import NotApplicable
from dataplanes.model import Endpoint, Segment, Service
from scenarios.ovn.fabric import OvnFabric, router

NO_WEIGHTS = "a load balancer of OVN has backends without weights"
_ANY = "any"
"""What stands in a balancer's name for the transport, if its VIP has no port and so has every one."""


class Balancers(DataPlane):
    """The services: one load balancer for each, or one for each transport if it declares ports."""

    def __init__(self, fabric: OvnFabric, name: str) -> None:
        self.name = name
        self._fabric = fabric
        self._known: dict[str, set[str]] = {}  # the balancers by their services

    # A load balancer is a logical switch's, and so it serves all ports of that, wherever they are.

    def add_segment(self, segment: Segment) -> None: ...

    def add_endpoint(self, endpoint: Endpoint) -> None: ...

    def remove_endpoint(self, endpoint: Endpoint) -> None: ...

    def apply(self, services: Sequence[Service]) -> None:
        if any(backend.weight > 1 for each in services for backend in each.backends):
            raise NotApplicable(NO_WEIGHTS)
        commands: list[Sequence[str]] = []
        made: dict[str, set[str]] = {}
        for service in services:
            known, wanted = self._known.get(service.name, set()), dict(balancers(service))
            commands += [("lb-del", each) for each in sorted(known - wanted.keys())]
            for number, (name, (transport, vips)) in enumerate(wanted.items()):
                if name in known:
                    commands.append(("set", "load_balancer", name, f"vips={vips}"))
                else:
                    commands += _creation(
                        f"@{service.network}-{service.name}-{number}", name, service.network, transport, vips
                    )
            made[service.name] = set(wanted)
        self._tell(commands)
        self._known |= made

    def remove(self, services: Sequence[Service]) -> None:
        gone = [name for each in services for name in sorted(self._known.get(each.name, ()))]
        self._tell([("lb-del", name) for name in gone])
        for each in services:
            self._known.pop(each.name, None)

    def _tell(self, commands: Sequence[Sequence[str]]) -> None:
        if commands:
            self._fabric.central.tell(*commands)
            self._fabric.synchronize()

    def resync(self) -> None: ...

    def deafen(self, node: str) -> None:
        self._fabric.nodes[node].hold()

    def catch_up(self, node: str) -> None:
        self._fabric.nodes[node].release()
        self._fabric.await_links()
        self._fabric.synchronize()

    def counters(self) -> list[Counter]:
        return []

    def footprint(self) -> list[Footprint]:
        found = []
        for name, node in self._fabric.nodes.items():
            for kind, count in zip(("OpenFlow flows", "datapath flows"), node.flows(), strict=True):
                found.append(Footprint(self._fabric.host_netns(name), kind, count))
        return found

    def close(self) -> None:
        names = [name for each in self._known.values() for name in sorted(each)]
        self._tell([("lb-del", name) for name in names])
        self._known.clear()

    def release(self) -> None: ...


def balancers(service: Service) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the load balancers that stand for a service: the name, and the transport with the VIPs and their backends.

    A drained backend is none: it gets no new connection, and those that it has go on (ovn-nb(5), options:ct_flush).
    """
    live = [each.address for each in service.backends if each.weight]
    if not service.ports:
        yield f"{service.name}-{_ANY}", (_ANY, _vips({service.vip: live}))
    for transport in dict.fromkeys(port.protocol for port in service.ports):
        numbers = [port.number for port in service.ports if port.protocol == transport]
        vips = {f"{service.vip}:{number}": [f"{address}:{number}" for address in live] for number in numbers}
        yield f"{service.name}-{transport}", (transport, _vips(vips))


def _vips(vips: dict[str, list[str]]) -> str:
    """Return a map of a database as ovn-nbctl(8) reads it."""
    return "{" + ",".join(f'"{vip}"="{",".join(backends)}"' for vip, backends in vips.items()) + "}"


def _creation(row: str, name: str, network: str, transport: str, vips: str) -> Iterator[Sequence[str]]:
    """Yield the commands that create a load balancer. A switch balances, and its router answers for the VIPs."""
    protocol = () if transport == _ANY else (f"protocol={transport}",)
    row = row.replace(".", "-")
    yield (f"--id={row}", "create", "load_balancer", f"name={name}", f"vips={vips}", *protocol)
    yield ("add", "logical_switch", network, "load_balancer", row)
    yield ("add", "logical_router", router(network), "load_balancer", row)
