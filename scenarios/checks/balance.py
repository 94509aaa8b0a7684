"""The distribution of connections over backends."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from scenarios.checks import check
from scenarios.checks.backends import reached
from scenarios.checks.world import CLIENT, LOCAL, VISITOR, Differs, World, finish, retransmits, same, shares


@check("balance.round-robin", "D4")
def round_robin(world: World) -> str:
    """When one client makes 60 connections one after another, each of three backends gets one of every three."""
    seen = [world.ask(CLIENT, world.vip("my-web")).task for _ in range(60)]
    _in_turn(seen, world.tasks("my-web"))
    return f"connections: {shares(seen)}"


def _in_turn(seen: list[str], turns: Sequence[str]) -> None:
    """Demand that every three connections in a row went to these backends, in whatever order.

    The whole numbers alone may be right by chance: of 60 connections at random, one time in 70.
    """
    for begin in range(0, len(seen), len(turns)):
        if sorted(seen[begin : begin + len(turns)]) != sorted(turns):
            what = ", ".join(seen[begin : begin + len(turns)])
            raise Differs(f"connections {begin + 1} to {begin + len(turns)}: {what}; in all: {shares(seen)}")


@check("balance.weights", "ipvsadm(8), wrr; Kubernetes Gateway API, BackendRef.weight", changes=("apply",))
def weights(world: World) -> str:
    """A backend of weight 2 gets two of every three connections, and one of weight 1 the third."""
    with world.service("worker1", "worker2") as probe:
        service = world.definition(probe.name)
        weighed = tuple(replace(each, weight=2 - number) for number, each in enumerate(service.backends))
        world.apply([replace(service, backends=weighed)])
        seen = [world.ask(CLIENT, probe.vip).task for _ in range(30)]
        _in_turn(seen, [probe.tasks[0], probe.tasks[0], probe.tasks[1]])
        return f"connections: {shares(seen)}"


@check("balance.many-clients", "D5")
def many_clients(world: World) -> str:
    """When six clients on three nodes make one connection each, each of three backends gets two, five times over."""
    with world.service("worker1", "worker2", "manager1") as probe:
        clients = (CLIENT, VISITOR, LOCAL, "my-web.1", "my-web.2", "lone.1")
        for _ in range(5):  # at random, one time is right one time in eight
            seen = [world.ask(client, probe.vip).task for client in clients]
            same("connections", shares(seen), dict.fromkeys(probe.tasks, 2))
        return f"connections of each time: {shares(seen)}"


@check("balance.many-clients-one-node", "D5")
def many_clients_one_node(world: World) -> str:
    """Three clients of one node that make one connection each reach three different backends, eight times over."""
    clients = (CLIENT, "my-web.1", "my-web.2")
    world.demand_one_node(*clients)
    with world.service("worker1", "worker2", "manager1") as probe:
        for _ in range(8):  # at random, one time is right one time in five
            seen = [world.ask(client, probe.vip).task for client in clients]
            same("connections", shares(seen), dict.fromkeys(probe.tasks, 1))
        return f"connections of each time: {shares(seen)}"


@check("balance.udp-sticks", "D24", protocols=("udp",))
def udp_sticks(world: World) -> str:
    """The datagrams of one socket stay with one backend."""
    handle = world.datagrams(CLIENT)
    seen = [world.heard(CLIENT, world.vip("my-web"), by=handle)[0].task for _ in range(6)]
    if len(set(seen)) > 1:
        raise Differs(f"6 datagrams of one socket: {shares(seen)}")
    return f"6 datagrams of one socket: all {seen[0]}"


@check("balance.port-reuse", "D6, moby/moby#35082, kubernetes/kubernetes#81775")
def port_reuse(world: World) -> str:
    """A client that uses a source port again at once is served without a retransmission, which takes a second."""
    for attempt in range(4):
        world.hang_up(CLIENT, world.vip("my-web"), 23458)
        world.doing = f"connection {attempt + 2} from port 23458"
        with world.connect(CLIENT, world.vip("my-web"), source_port=23458) as made:
            world.who(made)
            if again := retransmits(made):
                raise Differs(f"connection {attempt + 2} from the same port: {again} segments sent again")
            made.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while made.recv(4096):
                pass
            finish(made)
    return "8 connections from one port, no segment sent twice"


@check("balance.not-rebalanced", "D18, traefik/traefik#718")
def not_rebalanced(world: World) -> str:
    """Scaling up moves no established connection."""
    with world.service("worker1") as probe:
        made = world.connect(CLIENT, probe.vip)
        before = world.who(made).task
        world.scale(probe.name, 3)
        after = {world.who(made).task for _ in range(3)}
        fresh = set(reached(world.tasks(probe.name), lambda: world.ask(CLIENT, probe.vip).task))
        if after != {before} or len(fresh) != 3:
            raise Differs(f"{before} before, {', '.join(sorted(after))} after; new ones reach {len(fresh)} of 3")
        return f"stayed with {before}; new connections reach all 3"


@check(
    "balance.under-change", "D17, net/netfilter/ipvs/ip_vs_rr.c: ip_vs_rr_del_dest", in_turn=True, changes=("apply",)
)
def under_change(world: World) -> str:
    """While a third backend is added and removed twelve times, the two others get their shares of new connections."""
    with world.service("worker1", "worker2", "manager1") as probe:
        all_three = world.definition(probe.name)
        seen = []
        for number in range(12):
            world.apply([replace(all_three, backends=all_three.backends[: 2 + number % 2])])
            seen.append(world.ask(CLIENT, probe.vip).task)
        most, least = (each([seen.count(task) for task in probe.tasks[:2]]) for each in (max, min))
        if most - least > 2:
            raise Differs(f"connections: {shares(seen)}")
        return f"connections: {shares(seen)}"


@check("balance.affinity", "D37, moby/moby#23813", skip="no plane has session affinity: swarm's is always round robin")
def affinity(world: World) -> str:
    """A client stays with its backend from one connection to the next."""
    raise NotImplementedError
