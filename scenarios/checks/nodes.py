"""Nodes in trouble: their connection tables are full, and they learn changes late, in another order or never."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from dataplanes.kernel import conntrack
from dataplanes.kernel.conntrack import Conntrack
from scenarios.checks import check
from scenarios.checks.backends import one_each, reached, shared
from scenarios.checks.world import CLIENT, Differs, World, same, shares

_NODE = "worker2"
"""The node that learns late: that of the client."""
_ROOM = 29
"""Entries for which a namespace has room, while tables are full. The containers of a check have fewer.

Of less than 100, connection tracking takes none for so many that it must look for some to drop
(net/netfilter/nf_conntrack_core.c, gc_worker).
"""
_TRIES = 20
"""Connections of which one comes to the new backend.

A neighbour that was not found is looked for again only when the kernel has given up, 3 s after the first of its three
requests (net/core/neighbour.c, neigh_timer_handler). Until then connections wait, and are told that there is no route.
"""
_SILENCE = 2.0
"""Seconds until a connection is taken to be lost. Its SYN has been sent twice by then."""


@check("node.full-table", "net/netfilter/nf_conntrack_core.c: nf_conntrack_alloc; KEP-3866", machine=True)
def full_table(world: World) -> str:
    """New connections are made while no namespace of the nodes has room for another connection tracking entry.

    The containers' own namespaces have room.
    """
    _tables(world)
    with world.service("worker2") as clients, world.service("worker1") as probe, _full(world) as count:
        try:
            seen = world.ask(clients.tasks[0], probe.vip, timeout=_SILENCE).task
        except TimeoutError as error:
            raise Differs(f"a new connection is lost: no room for another entry in {count} namespaces") from error
        return same(f"no room for another entry in {count} namespaces; answered by", seen, probe.tasks[0])


@check("node.full-table-established", "net/netfilter/nf_conntrack_core.c: early_drop", machine=True)
def full_table_established(world: World) -> str:
    """Established connections go on while no namespace of the nodes has room for another connection tracking entry."""
    _tables(world)
    with world.service("worker2") as clients, world.service("worker1") as probe:
        made = world.connect(clients.tasks[0], probe.vip)
        world.who(made)
        with _full(world) as count:
            world.doing = "the established connection"
            for _ in range(2):
                same("answered by", world.who(made).task, probe.tasks[0])
            return f"no room for another entry in {count} namespaces; the connection went on"


def _tables(world: World) -> list[str]:
    """Return the nodes' namespaces, to fill their connection tables. Raises NotApplicable if that may not be."""
    return world.alterable([name for kind, _, name in world.namespaces() if kind != "container"])


@contextmanager
def _full(world: World) -> Iterator[int]:
    """Fill the connection tables of the nodes' namespaces, whichever node they are of. Yield their number."""
    with ExitStack() as stack:
        tables = [stack.enter_context(Conntrack(name)) for name in _tables(world)]
        for table in tables:
            stack.callback(table.vacate)
            table.occupy(_ROOM + 1)
        stack.enter_context(conntrack.room(_ROOM))
        yield len(tables)


@check("node.late-backend", "moby/moby#41896", changes=("late",))
def late_backend(world: World) -> str:
    """A client whose node has not heard of a new backend is served by the others, and by all once it has heard."""
    with world.service("worker1") as probe:
        with world.late(_NODE):
            world.scale(probe.name, 2)
            seen = [_answer(world, probe.vip) for _ in range(4)]
            same("before the node has heard", shares(seen), {probe.tasks[0]: 4})
        return shared(world, world.tasks(probe.name), partial(_answer, world, probe.vip))


@check("node.late-removal", "moby/moby#41896, moby/moby#52661", changes=("late",))
def late_removal(world: World) -> str:
    """A removed backend of which a client's node has not heard fails only its own share of connections.

    Once the node has heard, none fails. Connections to the other backend go on all the time.
    """
    with world.service("worker1", "manager1") as probe:
        made = one_each(world, probe)
        gone, kept = probe.tasks
        made[gone].close()
        with world.late(_NODE):
            world.remove_task(gone)
            shared(world, ["TimeoutError", kept], partial(_answer, world, probe.vip))
            same("the established connection, before", world.who(made[kept]).task, kept)
        same("the established connection, after", world.who(made[kept]).task, kept)
        return same("connections", shares([_answer(world, probe.vip) for _ in range(4)]), {kept: 4})


@check("node.late-vip-reused", "moby/moby#25985, moby/moby#41896", changes=("late",))
def late_vip_reused(world: World) -> str:
    """A node that hears late that a VIP is another service's leads only to that service's backends then."""
    with ExitStack() as stack:
        first = stack.enter_context(world.service("worker1"))
        world.ask(CLIENT, first.vip)
        with world.late(_NODE):
            stack.close()
            second = stack.enter_context(world.service("worker1", "manager1", vip=first.vip))
        return shared(world, second.tasks, partial(_answer, world, second.vip))


@check("node.late-at-the-backend", "derived from node.late-backend", protocols=("tcp", "udp"), changes=("late",))
def late_at_the_backend(world: World) -> str:
    """A service is reached by TCP and UDP although the node of its backend has not heard of it."""
    with world.late("worker1"), world.service("worker1") as probe:
        same("by TCP", world.ask(CLIENT, probe.vip).task, probe.tasks[0])
        seen, _ = world.heard(CLIENT, probe.vip)  # from whom the answer comes, other checks are about
        return same("by TCP and UDP, answered by", seen.task, probe.tasks[0])


@check("node.lost-change", "moby/moby#41896", changes=("deaf",))
def lost_change(world: World) -> str:
    """A node that has lost a change of a service is right again after the next change of that service."""
    with world.service("worker1", "manager1") as probe:
        with world.deaf(_NODE):
            world.scale(probe.name, 3)
        world.remove_task(probe.tasks[0])
        return shared(world, world.tasks(probe.name), partial(_answer, world, probe.vip))


@check("node.lost-change-resync", "moby/moby#41896", changes=("deaf", "resync"))
def lost_change_resync(world: World) -> str:
    """A node that has lost changes is right again after resync(): a new backend, a new service and a removed one."""
    with ExitStack() as stack:
        old = stack.enter_context(world.service("worker1"))
        gone = stack.enter_context(ExitStack())
        vip = gone.enter_context(world.service("worker1")).vip
        with world.deaf(_NODE):
            world.scale(old.name, 2)
            gone.close()
            new = stack.enter_context(world.service("manager1"))
        world.resync()
        same("the new service", _answer(world, new.vip), new.tasks[0])
        same("nobody answers for the removed one", _answer(world, vip).endswith("Error"), True)
        return shared(world, world.tasks(old.name), partial(_answer, world, old.vip))


@check("node.late-location", "moby/moby#52661", changes=("unaware",))
def late_location(world: World) -> str:
    """While a node hears of a new backend and not yet where it is, clients there still reach the other backend.

    Soon after the node has heard where the new one is, they reach both.
    """
    with world.service("worker1") as probe:
        ask = partial(_answer, world, probe.vip, syns=3)
        with world.unaware(_NODE):
            world.scale(probe.name, 2)
            known, new = world.tasks(probe.name)
            seen = reached([known], ask)
            same("the other backend is reached", known in seen, True)
        for _ in range(_TRIES):
            if ask() == new:
                return f"before the node has heard: {shares(seen)}; after: {shared(world, [known, new], ask)}"
        raise Differs(f"{_TRIES} connections after the node has heard, and none to {new}")


def _answer(world: World, vip: str, syns: int = 1) -> str:
    """Make a connection by no more than so many SYNs. Return the task that answered, or the error."""
    try:
        with world.connect(CLIENT, vip, timeout=_SILENCE, syns=syns) as made:
            return world.who(made).task
    except OSError as error:
        return type(error).__name__
