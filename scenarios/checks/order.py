"""Unusual orders: clients that come before their service, and addresses, ports and backends that are used again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from msgspec.structs import replace

from scenarios.checks import check
from scenarios.checks.backends import PATIENCE, forget
from scenarios.checks.world import CLIENT, Differs, Probe, World, same
from scenarios.topology import ServiceSpec, Task

_PACE = 2.0
"""Seconds from a datagram to the next. One that comes sooner may be lost with the one before it."""
_LOST = 2
"""The largest number of datagrams that may be lost while a change takes effect."""


@check("change.connect-before-service", "kubernetes/kubernetes#48719", changes=("apply", "withdraw"))
def connect_before_service(world: World) -> str:
    """A connection that a client begins before its service exists is established when the service is created."""
    with _withdrawn(world) as (probe, create):
        made = world.handle(CLIENT, socket.SOCK_STREAM)
        made.setblocking(False)
        made.connect_ex((probe.vip, world.served))
        create()
        made.settimeout(6)
        world.doing = "the connection that was begun before the service existed"
        return same("answered by", world.who(made).task, probe.tasks[0])


@check("change.udp-before-service", "kubernetes/kubernetes#48370", protocols=("udp",), changes=("apply", "withdraw"))
def udp_before_service(world: World) -> str:
    """A UDP socket that has sent before its service existed is answered when the service is created.

    It loses at most two datagrams after that.
    """
    with _withdrawn(world) as (probe, create):
        handle = world.datagrams(CLIENT)
        handle.sendto(b"w", (probe.vip, world.served))
        create()
        return _answered(world, handle, probe.vip)


@contextmanager
def _withdrawn(world: World) -> Iterator[tuple[Probe, Callable[[], None]]]:
    """Yield a service whose container runs, and of which the plane knows nothing yet, and a function that tells it."""
    with world.service("worker1") as probe:
        service = world.definition(probe.name)
        world.withdraw([service])
        yield probe, lambda: world.apply([service])


@check("change.udp-zero-and-back", "kubernetes/kubernetes#139628", protocols=("udp",))
def udp_zero_and_back(world: World) -> str:
    """A UDP socket that sends while its service has no backend is answered when the service has one again.

    It loses at most two datagrams after that.
    """
    with world.service("worker1") as probe:
        handle = world.datagrams(CLIENT)
        world.ask_udp(CLIENT, probe.vip, by=handle)
        world.scale(probe.name, 0)
        with suppress(OSError):  # where the service was, the container itself may refuse
            handle.sendto(b"w", (probe.vip, world.served))
        world.scale(probe.name, 1)
        return _answered(world, handle, probe.vip)


def _answered(world: World, handle: socket.socket, vip: str) -> str:
    """Ask by one socket until an answer comes. It must come from the VIP and the port that were asked."""
    handle.settimeout(_PACE)
    for lost in range(_LOST + 1):
        sent = time.monotonic()
        try:
            handle.sendto(b"w", (vip, world.served))
            answer, source = handle.recvfrom(256)
        except OSError:  # it may be the error about an earlier datagram
            time.sleep(max(0.0, sent + _PACE - time.monotonic()))
            continue
        same("answered from", source, (vip, world.served))
        return f"answered by {world.seen(CLIENT, answer).task}, {lost} datagrams lost"
    raise Differs(f"{_LOST + 1} datagrams lost")


@check("change.udp-one-way", "moby/moby#36878: logs that nobody acknowledges", protocols=("udp",), changes=("apply",))
def udp_one_way(world: World) -> str:
    """Datagrams that nobody answers leave a removed backend, at the third at the latest."""
    with world.service("worker1", "worker2") as probe:
        servers = world.servers(probe.tasks, port := world.port(), socket.SOCK_DGRAM)
        handle = world.datagrams(CLIENT)
        handle.sendto(b"?", (probe.vip, port))
        first = world.arrived(servers)
        servers[first].recv(16)
        forget(world, probe.name, first)
        servers[first].settimeout(_PACE)
        (other,) = (task for task in probe.tasks if task != first)
        servers[other].settimeout(_PACE)
        for number in range(1, _LOST + 2):
            world.doing = f"datagram {number} after {first} was removed"
            sent = time.monotonic()
            try:
                handle.sendto(b"?", (probe.vip, port))
                servers[other].recv(16)
            except OSError:
                time.sleep(max(0.0, sent + _PACE - time.monotonic()))
                continue
            return f"{number - 1} datagrams lost, the next came to {other}"
        raise Differs(f"{_LOST + 1} datagrams after the removal did not come to {other}")


@check("change.address-reused", "moby/moby#26733", protocols=("tcp", "udp"))
def address_reused(world: World) -> str:
    """The address of a removed backend, given to another service's task, gets no client of the first service."""
    world.demand_addresses()
    with world.service("worker1", "worker2") as probe:
        gone, left = probe.tasks
        address = world.address(gone)
        handle = _flow_to(world, probe.vip, gone)
        world.remove_task(gone)
        name = f"{probe.name}-heir"
        world.create(ServiceSpec(name, "my-network", tasks=[Task(f"{name}.1", "worker1", address)]))
        try:
            same("the new service", world.ask(CLIENT, world.vip(name)).task, f"{name}.1")
            seen = {world.ask(CLIENT, probe.vip).task for _ in range(4)}
            same("the first service", sorted(seen), [left])
            world.doing = "the flow of the removed backend"
            return same("its flow, then", _answered(world, handle, probe.vip).split(",")[0], f"answered by {left}")
        finally:
            world.close()
            world.remove(name)


def _flow_to(world: World, vip: str, task: str) -> socket.socket:
    """Return a UDP socket whose flow goes to a given backend."""
    for _ in range(PATIENCE):
        handle = world.datagrams(CLIENT)
        if world.heard(CLIENT, vip, by=handle)[0].task == task:
            return handle
    raise Differs(f"{PATIENCE} flows, none to {task}")


@check("change.port-after-drain", "kubernetes/kubernetes#90188")
def port_after_drain(world: World) -> str:
    """A source port that was used to a backend is served by another one when that backend is drained."""
    with world.service("worker1", "worker2") as probe:
        first = world.hang_up(CLIENT, probe.vip, 23463).task
        world.drain(first)
        (other,) = (task for task in probe.tasks if task != first)
        seen = [world.hang_up(CLIENT, probe.vip, 23463, syns=3).task for _ in range(2)]
        return same(f"{first}, and after its drain", seen, [other, other])


@check(
    "change.shared-backends",
    "kubernetes e2e: multiple endpoint-Services with same selector",
    protocols=("tcp", "udp"),
)
def shared_backends(world: World) -> str:
    """The removal of a service does not touch another service that has the same backends."""
    vip = world.vip("lone")
    twin = replace(world.definition("lone"), name="twin", vip=world.spare(4))
    world.apply([twin])
    try:
        made, handle = world.connect(CLIENT, vip), world.datagrams(CLIENT)
        world.heard(CLIENT, vip, by=handle)
        world.ask(CLIENT, twin.vip)
        world.heard(CLIENT, twin.vip)
    finally:
        world.withdraw([twin])
    world.doing = "the established connection to the other service"
    same("established", world.who(made).task, "lone.1")
    same("the flow", world.heard(CLIENT, vip, by=handle)[0].task, "lone.1")
    return same("a connection, a flow and a new connection: answered by", world.ask(CLIENT, vip).task, "lone.1")
