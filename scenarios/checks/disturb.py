"""Somebody is given what another has, or takes away what the plane has put there: what a controller must stand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dataplanes.errors import Usage
from dataplanes.kernel import bpf, iptables, netns, nft, process
from dataplanes.kernel.netlink import NetlinkError
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Backend, Service
from scenarios.checks import check
from scenarios.checks.world import CLIENT, LOCAL, VISITOR, Differs, World, same, shares
from scenarios.dns import ADDRESS


@check("change.duplicate-vip", "moby/moby#33402, moby/libnetwork#1537")
def duplicate_vip(world: World) -> str:
    """A service that asks for another's VIP is refused, and that one goes on being served."""
    with world.service("worker1") as probe:
        told = _refused(world, probe.vip, world.address("lone.1"))
        seen = [world.ask(CLIENT, probe.vip).task for _ in range(2)]
        same("answered by", shares(seen), {probe.tasks[0]: 2})
        return f"refused: {told}; still answered by {seen[0]}"


@check("change.vip-of-a-container", "derived from change.duplicate-vip")
def vip_of_a_container(world: World) -> str:
    """A service that asks for a container's address as its VIP is refused, and that container can still be reached."""
    address = world.address("lone.1")
    told = _refused(world, address, world.address("my-web.1"))
    for client in (CLIENT, VISITOR):
        same("answered by", world.ask(client, address).task, "lone.1")
    return f"refused: {told}; lone.1 still answers"


def _refused(world: World, vip: str, backend: str) -> str:
    """Ask for a VIP that is taken; whatever comes of it, its removal is asked for, too."""
    plane = world.lab.plane
    assert plane
    thief = Service("thief", "my-network", vip, (Backend(backend),))
    try:
        plane.apply([thief])
    except Usage as refused:
        return refused.message
    finally:
        plane.remove([thief])
    raise Differs(f"{vip} is the VIP of two services, or of a service and a container")


@check("change.flush-then-change", "rancher/rke2#10469, k0sproject/k0s#2908, moby/moby#50443")
def flush_then_change(world: World) -> str:
    """When somebody has flushed what is programmed on nodes and in containers, the next change restores it."""
    with world.service("worker1", "worker2") as probe, _flushed(world) as what:
        world.lab.scale(probe.name, 3)
        for vip, tasks in ((probe.vip, world.tasks(probe.name)), (world.vip("my-web"), world.tasks("my-web"))):
            for client in (CLIENT, VISITOR):
                seen = [world.ask(client, vip).task for _ in range(6)]
                same(f"connections from {client}", shares(seen), dict.fromkeys(tasks, 2))
        return f"flushed: {what}; two services served again"


@check("change.flush-then-resync", "rancher/rke2#10469, k0sproject/k0s#2908, moby/moby#50443")
def flush_then_resync(world: World) -> str:
    """When somebody has flushed what is programmed on nodes and in containers, resync() restores it."""
    with world.service("worker1", "worker2") as probe, _flushed(world) as what:
        _resync(world)
        for client, vip in ((CLIENT, probe.vip), (VISITOR, world.vip("my-web")), ("both.1", world.vip("side-web"))):
            world.ask(client, vip)
        return f"flushed: {what}; three services served again"


@check("change.flush-established", "rancher/rke2#10469, k0sproject/k0s#2908, moby/moby#50443")
def flush_established(world: World) -> str:
    """Established connections go on when somebody has flushed what is programmed and resync() has restored it."""
    with world.service("worker1", "worker2") as probe:
        made = [world.connect(CLIENT, probe.vip) for _ in range(2)]
        owners = [world.who(each).task for each in made]
        with _flushed(world) as what:
            _resync(world)
            world.doing = "the established connections"
            same("answered by", [world.who(each).task for each in made], owners)
        return f"flushed: {what}; connections to {' and '.join(owners)} went on"


def _resync(world: World) -> None:
    assert world.lab.plane
    world.lab.plane.resync()


@contextmanager
def _flushed(world: World) -> Iterator[str]:
    """What packet filters, IPVS and eBPF hold is gone in every namespace. Afterwards all is as wanted again."""
    plane = world.lab.plane
    assert plane
    found: dict[str, int] = {}
    for _, _, name in world.lab.namespaces():
        for what in _flush(name):
            found[what] = found.get(what, 0) + 1
    for container in world.lab.containers.values():
        if container.cgroup and bpf.detach_all(container.cgroup):
            found["links"] = found.get("links", 0) + 1
    try:
        yield ", ".join(f"{what} in {count}" for what, count in sorted(found.items())) or "nothing"
    finally:
        plane.resync()


def _flush(name: str) -> Iterator[str]:
    """A program is only started where there is something to flush; the lab's own rules, the resolver's, come back."""
    tables = iptables.Tables(name)
    for table in tables.names():
        ours = [rule[3:] for rule in iptables.rules(name, table) if rule.startswith("-A ") and ADDRESS in rule]
        process.run(name, ("iptables-legacy", "-t", table, "-F"))
        iptables.exchange(name, table, [], ours)
        yield table
    tables.close()
    if nft.tables(name):
        process.run(name, ("nft", "flush", "ruleset"))
        yield "nft"
    with netns.inside(name):
        balanced = os.path.exists("/proc/thread-self/net/ip_vs") and shutil.which("ipvsadm", path="/usr/sbin:/sbin")
    if balanced:
        process.run(name, ("ipvsadm", "-C"))
        yield "ipvs"
    with Rtnl(name) as rtnl:
        for link in [each.get_attr("IFLA_IFNAME") for each in rtnl.links()]:
            for qdisc in (rtnl.clsact_del(link), rtnl.ingress_del(link)):
                with suppress(NetlinkError):  # no such one there
                    rtnl.send([qdisc])
                    yield "tc"


@check("reach.forward-drop", "kubernetes/kubernetes#59656, kubernetes/kubernetes#66103")
def forward_drop(world: World) -> str:
    """Services are reached where iptables forwards nothing on the nodes, as dockerd leaves them."""
    return _behind_firewalls(
        world,
        ("iptables-legacy", "-P", "FORWARD", "DROP"),
        ("iptables-legacy", "-P", "FORWARD", "ACCEPT"),
    )


@check("reach.forward-drop-nft", "kubernetes/kubernetes#59656, kubernetes/kubernetes#66103")
def forward_drop_nft(world: World) -> str:
    """Services are reached where an nftables chain forwards nothing on the nodes."""
    chain = "{ type filter hook forward priority 0; policy drop; }"
    return _behind_firewalls(
        world,
        ("nft", f"add table ip filter; add chain ip filter FORWARD {chain}"),
        ("nft", "delete table ip filter"),
    )


def _behind_firewalls(world: World, close: tuple[str, ...], reopen: tuple[str, ...]) -> str:
    """The nodes' firewalls close, then there is a change."""
    nodes = [name for kind, _, name in world.lab.namespaces() if kind == "host"]
    for name in nodes:
        process.run(name, close)
    try:
        with world.service("worker1", "worker2") as probe:
            for client in (CLIENT, VISITOR, LOCAL):
                seen = [world.ask(client, probe.vip).task for _ in range(2)]
                same(f"connections from {client}", sorted(seen), sorted(probe.tasks))
        return f"reached from {CLIENT}, {VISITOR} and {LOCAL}"
    finally:
        for name in nodes:
            process.run(name, reopen)
