"""Changes of services: backends are added, drained and removed, they crash, and VIPs move to other services."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from scenarios.checks import check
from scenarios.checks.backends import forget, one_each, reached, shared
from scenarios.checks.world import CLIENT, TIMEOUT, Differs, World, same, shares

_IP_RECVERR = 11  # include/uapi/linux/in.h


@check("change.scale-up", "D17")
def scale_up(world: World) -> str:
    """An established connection survives scaling up, and new connections reach the new backend."""
    with world.service("worker1", "worker2") as probe:
        made = world.connect(CLIENT, probe.vip)
        world.who(made)
        world.scale(probe.name, 3)
        world.who(made)
        seen = reached(world.tasks(probe.name), lambda: world.ask(CLIENT, probe.vip).task)
        return same("connections", len(set(seen)), 3)


@check("change.drain", "D19, moby/moby#30321")
def drain(world: World) -> str:
    """The established connections of a drained backend go on, and it gets no new ones."""
    with world.service("worker1", "worker2") as probe:
        made = one_each(world, probe)
        drained = probe.tasks[0]
        world.drain(drained)
        seen = [world.ask(CLIENT, probe.vip).task for _ in range(4)]
        if drained in seen:
            raise Differs(f"new connections after the drain: {shares(seen)}")
        world.doing = f"an established connection to {drained}"
        for owner, each in made.items():
            same("established connection answered by", world.who(each).task, owner)
        return f"connections to {', '.join(made)} went on; new ones only to {seen[0]}"


@check("change.drain-udp", "D25", protocols=("udp",))
def drain_udp(world: World) -> str:
    """A UDP flow leaves a drained backend, and loses at most one datagram."""
    with world.service("worker1", "worker2") as probe:
        handle = world.datagrams(CLIENT)
        first = world.ask_udp(CLIENT, probe.vip, by=handle).task
        world.drain(first)
        return _moved(world, handle, first, lambda: world.ask_udp(CLIENT, probe.vip, by=handle).task)


@check("change.delete-is-noticed", "D20", changes=("apply",))
def delete_is_noticed(world: World) -> str:
    """A client learns at its next packet that its backend, which still runs, was removed, even if it was the last."""
    with world.service("worker1", "worker2") as probe:
        made = one_each(world, probe)
        told = []
        for number, removed in enumerate(probe.tasks, 1):
            forget(world, probe.name, *probe.tasks[:number])
            told.append(_told(world, removed, made[removed]))
        return f"told by {told[0]}; when the last one was removed, by {told[1]}"


@check("change.delete-is-noticed-afar", "D20; found by bench explore", changes=("apply",))
def delete_is_noticed_afar(world: World) -> str:
    """A client whose node has no backend of the service learns at its next packet that its backend was removed."""
    with world.service("worker1", "manager1") as probe:
        world.demand_apart(CLIENT, removed := probe.tasks[0])
        world.demand_apart(CLIENT, probe.tasks[1])
        made = one_each(world, probe)[removed]
        forget(world, probe.name, removed)
        return f"told by {_told(world, removed, made)}"


def _told(world: World, removed: str, made: socket.socket) -> str:
    """Return the error that a client of a removed backend gets."""
    world.doing = f"the established connection to {removed}"
    try:
        answered = world.who(made).task
    except TimeoutError as error:
        raise Differs(f"silence of {removed}: no answer and no reset within {TIMEOUT:g} s") from error
    except OSError as error:
        return type(error).__name__
    raise Differs(f"still answered by {answered}, which is removed")


@check("change.others-survive-delete", "kubernetes e2e: no interrupted connections", changes=("apply",))
def others_survive_delete(world: World) -> str:
    """The removal of one backend does not affect connections to the others."""
    with world.service("worker1", "worker2", "worker1") as probe:
        made = one_each(world, probe)
        removed, *kept = probe.tasks
        forget(world, probe.name, removed)
        # A plane that has forgotten these connections chooses a backend again at the next packet of each. Two that
        # speak in the other order than theirs do not both happen to be given their own.
        kept.reverse()
        world.doing = f"the established connections to {' and '.join(kept)}"
        return same("answered by", [world.who(made[each]).task for each in kept], kept)


@check("change.new-avoid-removed", "D16", changes=("apply",))
def new_avoid_removed(world: World) -> str:
    """A backend that was removed gets no new connection."""
    with world.service("worker1", "worker2") as probe:
        forget(world, probe.name, probe.tasks[0])
        seen = [world.ask(CLIENT, probe.vip).task for _ in range(6)]
        return same("connections", shares(seen), {probe.tasks[1]: 6})


@check("change.udp-moves", "D25, moby/moby#36878", protocols=("udp",), changes=("apply",))
def udp_moves(world: World) -> str:
    """An unconnected UDP socket's flow leaves a removed backend, and loses at most one datagram."""
    with world.service("worker1", "worker2") as probe:
        handle = world.datagrams(CLIENT)
        first = world.ask_udp(CLIENT, probe.vip, by=handle).task
        forget(world, probe.name, first)
        return _moved(world, handle, first, lambda: world.ask_udp(CLIENT, probe.vip, by=handle).task)


@check("change.udp-moves-connected", "cilium/cilium#48244", protocols=("udp",), changes=("apply",))
def udp_moves_connected(world: World) -> str:
    """A connected UDP socket's flow leaves a removed backend, and loses at most one datagram."""
    with world.service("worker1", "worker2") as probe:
        handle = world.datagrams(CLIENT)
        handle.connect((probe.vip, world.served))

        def ask() -> str:
            handle.send(b"w")
            return world.seen(CLIENT, handle.recv(256)).task

        first = ask()
        forget(world, probe.name, first)
        return _moved(world, handle, first, ask)


_PACE = 2.0
"""Seconds from a lost datagram to the next.

The pause is also made when the loss is reported at once: with expire_nodest_conn IPVS refuses a datagram, and forgets
its flow at the next tick (net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_expire_now).
"""


def _moved(world: World, handle: socket.socket, first: str, ask: Callable[[], str]) -> str:
    handle.settimeout(_PACE)
    lost = 0
    for _ in range(4):
        world.doing = f"a datagram after {first} was removed"
        sent = time.monotonic()
        try:
            now = ask()
        except OSError:
            lost += 1
            time.sleep(max(0.0, sent + _PACE - time.monotonic()))
            continue
        if now == first:
            raise Differs(f"still answered by {first}")
        if lost > 1:
            raise Differs(f"moved to {now} after {lost} lost datagrams")
        return f"moved from {first} to {now}, {lost} datagrams lost"
    raise Differs(f"4 datagrams lost: the flow is stuck to {first}")


@check("change.crash", "D21, moby/moby#28564")
def crash(world: World) -> str:
    """A backend whose server has crashed, and which is still listed, fails only its own share of connections."""
    with world.service("worker1", "worker2") as probe:
        world.stop_server(probe.tasks[0])
        return shared(world, ["ConnectionRefusedError", probe.tasks[1]], lambda: _answer(world, probe.vip), 3)


@check("change.crash-container", "D21, moby/moby#33790")
def crash_container(world: World) -> str:
    """A backend whose whole container is gone, and which is still listed, fails only its own share of connections."""
    with world.service("worker1", "worker2") as probe:
        world.crash(probe.tasks[0])
        return shared(world, ["TimeoutError", probe.tasks[1]], lambda: _answer(world, probe.vip, _LOST))


_LOST = 2.0
"""Seconds until a connection is taken to be lost. Its SYN has been sent twice by then."""


def _answer(world: World, vip: str, timeout: float | None = None) -> str:
    """Make a connection. Return the task that answered, or the error."""
    try:
        return world.ask(CLIENT, vip, timeout=timeout).task
    except OSError as error:
        return type(error).__name__


@check("change.no-backend", "D14, kubernetes e2e: REFUSED within 3 s")
def no_backend(world: World) -> str:
    """A service whose backends are all drained refuses connections at once."""
    with world.service("worker1", "worker2") as probe:
        for task in probe.tasks:
            world.drain(task)
        made = world.handle(CLIENT, socket.SOCK_STREAM)
        made.settimeout(3)
        try:
            made.connect((probe.vip, world.served))
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError as error:
            raise Differs("silence for 3 s") from error
        except OSError as error:
            raise Differs(f"{error}") from error
        raise Differs(f"answered by {world.who(made).task}")


@check("change.no-backend-udp", "D14", protocols=("udp",))
def no_backend_udp(world: World) -> str:
    """A service whose backends are all drained refuses one of four datagrams at once, by a connected socket or not.

    ICMP errors are rate-limited, so it need not refuse all of them.
    """
    with world.service("worker1", "worker2") as probe:
        for task in probe.tasks:
            world.drain(task)
        return "; ".join(f"{kind}: {_refusal(world, probe.vip, kind)}" for kind in ("connected", "unconnected"))


def _refusal(world: World, vip: str, kind: str) -> str:
    seen = []
    for _ in range(4):  # net.ipv4.icmp_ratelimit
        handle = world.datagrams(CLIENT)
        handle.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)  # without it an unconnected socket hears of no error
        handle.settimeout(2)
        try:
            if kind == "connected":
                handle.connect((vip, world.served))
            handle.sendto(b"w", (vip, world.served))
            seen.append(handle.recv(256).decode())
        except ConnectionRefusedError:
            return "refused"
        except PermissionError:  # the drop is on the sender's own path; the next call reports the refusal
            try:
                handle.recv(256)
            except ConnectionRefusedError:
                return "not permitted, then refused"
            except OSError as error:
                seen.append(f"not permitted, then {type(error).__name__}")
        except OSError as error:
            seen.append(type(error).__name__)
    raise Differs(f"{kind}: {', '.join(seen)}")


@check("change.removed-service", "D15")
def removed_service(world: World) -> str:
    """The VIP of a removed service is unreachable: it neither answers nor refuses."""
    with world.service("worker1") as probe:
        world.ask(CLIENT, probe.vip)
        vip = probe.vip
    try:
        seen = world.ask(CLIENT, vip).task
    except ConnectionRefusedError as error:
        raise Differs(f"{error}: somebody has the address") from error
    except OSError as error:
        return f"{error}"
    raise Differs(f"still answered by {seen}")


@check("change.vip-reused", "D16, moby/moby#25985")
def vip_reused(world: World) -> str:
    """A VIP that is given to another service leads only to the backends of that service."""
    world.demand_addresses()
    with world.service("worker1") as first:
        vip = first.vip
        world.ask(CLIENT, vip)
    with world.service("worker2", vip=vip) as second:
        seen = {world.ask(CLIENT, vip).task for _ in range(3)}
        return same("answered by", sorted(seen), list(second.tasks))


@check("change.vip-reused-udp", "D16, D25", protocols=("udp",))
def vip_reused_udp(world: World) -> str:
    """A VIP that is given to another service leads only to its backends by UDP, even from a source port used before."""
    world.demand_addresses()
    with world.service("worker1") as first:
        vip, handle = first.vip, world.datagrams(CLIENT)
        world.ask_udp(CLIENT, vip, by=handle)
        source_port = handle.getsockname()[1]
    with world.service("worker2", vip=vip) as second:
        handle = world.datagrams(CLIENT)
        handle.bind(("", source_port))
        seen = {world.ask_udp(CLIENT, vip, by=handle).task for _ in range(3)}
        return same("answered by", sorted(seen), list(second.tasks))


@check("change.name-follows", "D38, moby/moby#26772")
def name_follows(world: World) -> str:
    """A service's name resolves once its balancer is ready, and stops resolving when the service has no backend."""
    from dnslib import RCODE, DNSRecord

    def resolve(name: str) -> tuple[str, list[str]]:
        handle = world.datagrams(CLIENT)
        world.doing = f"{CLIENT} asks for {name}"
        handle.sendto(DNSRecord.question(name).pack(), (world.resolver, 53))
        reply = DNSRecord.parse(handle.recv(4096))
        return RCODE[reply.header.rcode], [str(each.rdata) for each in reply.rr]

    with world.service("worker1") as probe:
        same("name", resolve(probe.name), ("NOERROR", [probe.vip]))
        world.ask(CLIENT, probe.vip)
        world.scale(probe.name, 0)
        return same("with no task left", resolve(probe.name)[0], "NXDOMAIN")


@check("change.restart", "D45, moby/moby#41668")
def restart(world: World) -> str:
    """A plane that is removed and installed again serves as before."""
    world.reinstall()
    return shared(world, world.tasks("my-web"), lambda: world.ask(CLIENT, world.vip("my-web")).task)
