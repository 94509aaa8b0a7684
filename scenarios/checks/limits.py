"""Limits, and semantics that no plane here has."""

from __future__ import annotations

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import sysctl
from scenarios.checks import check
from scenarios.checks.world import Delayed, Differs, Seen, World, same

_PORTS = range(40000, 40032)
_BY_CHANCE = 1
"""The connections that may need a second SYN where the balancer chooses source ports at random, as kube-proxy has it.
The backend may have such a port in TIME_WAIT, of a connection with another sequence number. Then it answers a SYN with
an ACK (net/ipv4/tcp_minisocks.c, tcp_timewait_state_process). That was seen in 4 of 200 observations in fresh labs."""


@check("limits.recycled-ports", "D46, moby/moby#35082")
def recycled_ports(world: World) -> str:
    """A client with 32 ports makes 128 connections, one after another, and none fails."""
    with world.service("worker2") as probe:
        client = probe.tasks[0]
        for name in world.alterable([world.netns(client)]):
            sysctl.write(name, {"net.ipv4.ip_local_port_range": f"{_PORTS[0]} {_PORTS[-1]}"})
        seen: list[Seen] = []
        delayed: list[Delayed] = []
        while len(seen) + len(delayed) < 128:
            try:
                seen.append(world.hang_up(client, world.vip("my-web"), 0))
            except Delayed as delay:
                delayed.append(delay)
                if len(delayed) > _BY_CHANCE or not any(each.source_port not in _PORTS for each in seen):
                    raise
        return same("connections answered", len(seen) + len(delayed), 128)


@check("limits.ipv6", "D36, moby/moby#24379", skip="swarm's VIPs are IPv4 only, and so are these planes")
def ipv6(world: World) -> str:
    """A VIP can be an IPv6 address."""
    raise NotImplementedError


@check("limits.health", "D22, moby/moby#30321", skip="which task is ready is the control plane's business")
def health(world: World) -> str:
    """A task that is not healthy gets no traffic."""
    raise NotImplementedError


@check("limits.user-namespaces", "D41, moby/moby#26106")
def user_namespaces(world: World) -> str:
    """A container whose root is remapped to another user reaches services as any other container."""
    try:
        with world.service("worker2", remapped=True) as probe:
            return same("answered by", world.ask(probe.tasks[0], world.vip("lone")).task, "lone.1")
    except (KernelRefused, Prerequisite) as refused:
        raise Differs(f"not programmed: {refused}") from refused


@check("limits.join-time", "D44, moby/moby#30820", skip="measured, not judged: bench run --workload program")
def join_time(world: World) -> str:
    """The time in which a container joins does not depend on the number of services."""
    raise NotImplementedError
