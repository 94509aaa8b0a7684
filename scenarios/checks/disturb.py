"""Disturbances that a controller must withstand: an address is given twice, or others remove the plane's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from dataplanes.errors import Usage
from dataplanes.kernel import iptables, nft
from dataplanes.model import Backend, Service
from scenarios.checks import check
from scenarios.checks.backends import one_each, shared
from scenarios.checks.world import CLIENT, LOCAL, VISITOR, Differs, World, same, shares


@check("change.duplicate-vip", "moby/moby#33402, moby/libnetwork#1537", changes=("apply", "withdraw"))
def duplicate_vip(world: World) -> str:
    """A service that asks for another service's VIP is refused, and the other service goes on being served."""
    with world.service("worker1") as probe:
        told = _refused(world, probe.vip, world.address("lone.1"))
        seen = [world.ask(CLIENT, probe.vip).task for _ in range(2)]
        same("answered by", shares(seen), {probe.tasks[0]: 2})
        return f"refused: {told}; still answered by {seen[0]}"


@check("change.vip-of-a-container", "derived from change.duplicate-vip")
def vip_of_a_container(world: World) -> str:
    """A service that asks for a container's address as its VIP is refused, and the container can still be reached."""
    address = world.address("lone.1")
    told = _refused(world, address, world.address("my-web.1"))
    for client in (CLIENT, VISITOR):
        same("answered by", world.ask(client, address).task, "lone.1")
    return f"refused: {told}; lone.1 still answers"


def _refused(world: World, vip: str, backend: str) -> str:
    """Ask for a VIP that is taken, and then for the removal of that service in any case."""
    thief = Service("thief", "my-network", vip, (Backend(backend),), world.definition("lone").ports)
    try:
        world.apply([thief])
    except Usage as refused:
        return refused.message
    finally:
        world.withdraw([thief])
    raise Differs(f"{vip} is the VIP of two services, or of a service and a container")


@check("change.flush-then-change", "rancher/rke2#10469, k0sproject/k0s#2908, moby/moby#50443", changes=("resync",))
def flush_then_change(world: World) -> str:
    """After rules and tables on nodes and in containers were flushed, the next change restores them."""
    with world.service("worker1", "worker2") as probe, _flushed(world) as what:
        world.scale(probe.name, 3)
        for vip, tasks in ((probe.vip, world.tasks(probe.name)), (world.vip("my-web"), world.tasks("my-web"))):
            for client in (CLIENT, VISITOR):
                shared(world, tasks, partial(_answer, world, client, vip))
        world.resync()  # the other network, which had no change
        return f"flushed: {what}; two services served again"


def _answer(world: World, client: str, vip: str) -> str:
    return world.ask(client, vip).task


@check("change.flush-then-resync", "rancher/rke2#10469, k0sproject/k0s#2908, moby/moby#50443", changes=("resync",))
def flush_then_resync(world: World) -> str:
    """After rules and tables on nodes and in containers were flushed, resync() restores them."""
    with world.service("worker1", "worker2") as probe, _flushed(world) as what:
        world.resync()
        for client, vip in ((CLIENT, probe.vip), (VISITOR, world.vip("my-web")), ("both.1", world.vip("side-web"))):
            world.ask(client, vip)
        return f"flushed: {what}; three services served again"


@check("change.flush-established", "rancher/rke2#10469, k0sproject/k0s#2908, moby/moby#50443", changes=("resync",))
def flush_established(world: World) -> str:
    """Established connections go on after rules and tables were flushed and resync() has restored them."""
    with world.service("worker1", "worker2") as probe:
        made = one_each(world, probe)
        with _flushed(world) as what:
            world.resync()
            world.doing = "the established connections"
            same("answered by", [world.who(each).task for each in made.values()], list(made))
        return f"flushed: {what}; connections to {' and '.join(made)} went on"


@contextmanager
def _flushed(world: World) -> Iterator[str]:
    """Flush packet filters, IPVS and eBPF in every namespace. Yield a list of what was flushed."""
    found = world.flush()
    try:
        yield ", ".join(f"{what} in {count}" for what, count in sorted(found.items())) or "nothing"
    except BaseException:
        world.mend()  # so that the other checks do not suffer
        raise


@check("reach.forward-drop", "kubernetes/kubernetes#59656, kubernetes/kubernetes#66103")
def forward_drop(world: World) -> str:
    """Services are reached where the policy of iptables on the nodes is to forward nothing, as dockerd sets it."""

    def close(name: str) -> None:
        iptables.program(name, "filter", [":FORWARD DROP [0:0]"])

    def reopen(name: str) -> None:
        iptables.program(name, "filter", [":FORWARD ACCEPT [0:0]"])

    return _behind_firewalls(world, close, reopen)


@check("reach.forward-drop-nft", "kubernetes/kubernetes#59656, kubernetes/kubernetes#66103")
def forward_drop_nft(world: World) -> str:
    """Services are reached where an nftables chain on the nodes has the policy to forward nothing."""

    def close(name: str) -> None:
        nft.carry_out(
            name,
            "add table ip filter\nadd chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
        )

    def reopen(name: str) -> None:
        nft.carry_out(name, "delete table ip filter")

    return _behind_firewalls(world, close, reopen)


def _behind_firewalls(world: World, close: Callable[[str], None], reopen: Callable[[str], None]) -> str:
    """Close the firewalls of the nodes, make a change, and call the service."""
    nodes = world.alterable(list(world.hosts().values()))
    for name in nodes:
        close(name)
    try:
        with world.service("worker1", "worker2") as probe:
            for client in (CLIENT, VISITOR, LOCAL):
                shared(world, probe.tasks, partial(_answer, world, client, probe.vip), 1)
        return f"reached from {CLIENT}, {VISITOR} and {LOCAL}"
    finally:
        for name in nodes:
            reopen(name)
