"""Reachability: from every node, by every transport, on every port, with unchanged data."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from dataplanes.kernel import sysctl
from scenarios.checks import check
from scenarios.checks.backends import reached, shared
from scenarios.checks.world import (
    CLIENT,
    LOCAL,
    VISITOR,
    Differs,
    World,
    bulk,
    carry,
    lacks,
    mapped,
    no_ipv6,
    refused,
    same,
)

_CLIENTS = (CLIENT, VISITOR, LOCAL, "my-web.1", "lone.1")
_TCP_HEADERS = 40  # bytes, of IPv4 and TCP without options
_RP_FILTER = "net.ipv4.conf.all.rp_filter"  # that of an interface counts only if it is stricter (ip-sysctl.rst)


@check("reach.same-node", "D1")
def same_node(world: World) -> str:
    """A client reaches a backend on its own node through the VIP."""
    return same("answered by", world.ask(LOCAL, world.vip("lone")).task, "lone.1")


@check("reach.other-node", "D2")
def other_node(world: World) -> str:
    """A client reaches a service whose only backend is on another node."""
    world.demand_apart(CLIENT, "lone.1")
    return same("answered by", world.ask(CLIENT, world.vip("lone")).task, "lone.1")


@check("reach.node-without-backend", "D3")
def node_without_backend(world: World) -> str:
    """A client on a node without a backend reaches every backend on the other nodes."""
    seen = reached(world.tasks("my-web"), lambda: world.ask(VISITOR, world.vip("my-web")).task)
    return same("answered by", sorted(set(seen)), world.tasks("my-web"))


@check("reach.tcp-everywhere", "D1-D3, D7")
def tcp_everywhere(world: World) -> str:
    """Every client on every node, including the backends, reaches every backend by TCP."""
    if missed := _missed(world, lambda client: world.ask(client, world.vip("my-web")).task):
        raise Differs("; ".join(f"{client} never reached {', '.join(tasks)}" for client, tasks in missed.items()))
    return f"{len(_CLIENTS)} clients on 3 nodes each reached all {len(world.tasks('my-web'))}"


def _missed(world: World, ask: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the backends that clients did not reach, by client."""
    tasks = world.tasks("my-web")
    missed = {each: sorted(set(tasks) - set(reached(tasks, partial(ask, each)))) for each in _CLIENTS}
    return {client: left for client, left in missed.items() if left}


@check("reach.udp-everywhere", "D23", protocols=("udp",))
def udp_everywhere(world: World) -> str:
    """Every client on every node, including the backends, reaches every backend by UDP.

    Every answer comes from the VIP.
    """
    if missed := _missed(world, lambda client: world.ask_udp(client, world.vip("my-web")).task):
        raise Differs(
            "; ".join(f"{client} never reached {', '.join(tasks)} by UDP" for client, tasks in missed.items())
        )
    return f"{len(_CLIENTS)} clients on 3 nodes each reached all {len(world.tasks('my-web'))}, answered from the VIP"


@check("reach.mapped", "cilium/cilium#9923", obstacle=no_ipv6)
def through_mapped_address(world: World) -> str:
    """An IPv6 socket reaches every backend by the VIP's IPv4-mapped address, which programs in Java and .NET use."""

    def ask() -> str:
        with world.handle(CLIENT, socket.SOCK_STREAM, family=socket.AF_INET6) as made:
            world.doing = f"{CLIENT} connects to {mapped(world.vip('my-web'))}"
            return world.who(world.open(made, mapped(world.vip("my-web")))).task

    return shared(world, world.tasks("my-web"), ask)


@check("reach.mapped-udp", "cilium/cilium#39470", obstacle=no_ipv6, protocols=("udp",))
def through_mapped_address_by_udp(world: World) -> str:
    """An IPv6 socket reaches every backend by UDP through the VIP's IPv4-mapped address.

    Every answer comes from that address.
    """
    vip = mapped(world.vip("my-web"))

    def ask() -> str:
        return world.ask_udp(CLIENT, vip, by=world.handle(CLIENT, socket.SOCK_DGRAM, family=socket.AF_INET6)).task

    return shared(world, world.tasks("my-web"), ask)


@check("reach.any-port", "D12", any_port=True, protocols=("tcp", "udp"))
def any_port(world: World) -> str:
    """Every TCP and UDP port of the VIP leads to the same port of a backend, without any port being published."""
    tasks, vip = world.tasks("my-web"), world.vip("my-web")
    tcp, udp = (world.servers(tasks, world.port(), kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
    pair = world.pair(CLIENT, "my-web", tcp)
    carry(pair.client, pair.backend)
    carry(pair.backend, pair.client)
    port = udp[tasks[0]].getsockname()[1]
    world.doing = f"a datagram to port {port}"
    world.datagrams(CLIENT).sendto(b"?", (vip, port))
    world.arrived(udp)
    return "a TCP port and a UDP port arrived unchanged"


_no_sctp = lacks("SCTP", socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)


@check("reach.sctp", "D12", obstacle=_no_sctp, protocols=("sctp",))
def sctp(world: World) -> str:
    """An SCTP association to the VIP reaches a backend, and data arrive in both directions."""
    servers = world.servers(world.tasks("my-web"), world.port(), protocol=socket.IPPROTO_SCTP)
    for _ in servers:
        pair = world.pair(CLIENT, "my-web", servers, protocol=socket.IPPROTO_SCTP)
        carry(pair.client, pair.backend)
        carry(pair.backend, pair.client)
    return f"{len(servers)} associations, 5 bytes arrived each way on each"


@check("reach.wrong-protocol", "kube-proxy: TCP-only port hit by UDP", protocols=("tcp", "udp"))
def wrong_protocol(world: World) -> str:
    """A port that a backend serves only by TCP is refused by UDP, and the other way round."""
    world.listen("lone.1", tcp := world.port())
    world.listen("lone.1", udp := world.port(), socket.SOCK_DGRAM)
    datagrams = world.datagrams(CLIENT)
    datagrams.connect((world.vip("lone"), tcp))
    world.doing = "a datagram to a port of TCP's"
    refused(datagrams)
    with suppress(ConnectionRefusedError):
        world.connect(CLIENT, world.vip("lone"), udp)
        raise Differs(f"not refused: {world.doing}")
    return "both refused"


@check("reach.closed-port", "D13")
def closed_port(world: World) -> str:
    """A port that no backend serves is refused at once."""
    try:
        world.connect(CLIENT, world.vip("lone"), 4711)
    except ConnectionRefusedError:
        return "refused"
    raise Differs("connected to a port nobody listens on")


@check("reach.payload", "kubernetes e2e: large requests")
def payload(world: World) -> str:
    """256 KiB arrive whole and in order in each direction."""
    return bulk(world, world.pair(CLIENT, "my-web", world.servers(world.tasks("my-web"), world.port())))


@check("reach.segment-size", "D27")
def segment_size(world: World) -> str:
    """TCP segments fit the overlay: the MSS is at most 1410 if the MTU is 1450."""
    client = world.connect(CLIENT, world.vip("lone"))
    size = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    if size > world.mtu("my-network") - _TCP_HEADERS:
        raise Differs(f"MSS {size}")
    return f"MSS {size}"


@check("reach.other-service", "D31")
def other_service(world: World) -> str:
    """A connection to one service of a network never reaches a backend of another."""
    for _ in range(3):
        for service in ("my-web", "lone", "visitor"):
            seen = world.ask(CLIENT, world.vip(service)).task
            if seen not in world.tasks(service):
                raise Differs(f"asked {service}, answered by {seen}")
    return "9 connections to 3 services, each answered by its own"


@check("reach.new-container", "D41, kubernetes e2e")
def new_container(world: World) -> str:
    """A container that joins later reaches every service, and its own service is reached."""
    with world.service("manager1") as probe:
        same("its own call", world.ask(probe.tasks[0], world.vip("lone")).task, "lone.1")
        return same("a call to it", world.ask(CLIENT, probe.vip).task, probe.tasks[0])


@check("reach.two-networks", "D32, moby/libnetwork#1396")
def two_networks(world: World) -> str:
    """A client on two networks reaches a VIP on each, and each backend sees the client's address on that network."""
    for network, service in (("my-network", "lone"), ("side", "side-web")):
        seen = world.ask("both.1", world.vip(service))
        own = world.address("both.1", network)
        if seen.source != own:
            raise Differs(f"{service} on {network} saw {seen.source}, the client is {own}")
    return "seen as its own address on either"


@check("reach.both-networks", "D32")
def both_networks(world: World) -> str:
    """A client on two networks reaches a VIP on each."""
    for service in ("lone", "side-web"):
        same(service, world.ask("both.1", world.vip(service)).task, f"{service}.1")
    return "a service on either answered"


@check("reach.strict-rp-filter", "net/ipv4/fib_frontend.c: fib_validate_source", protocols=("tcp", "udp"))
def strict_rp_filter(world: World) -> str:
    """Services are reached where every namespace drops packets that would not be answered by the same way."""
    spaces = world.alterable([name for _, _, name in world.namespaces()])
    before = {name: sysctl.value(name, _RP_FILTER) or "0" for name in spaces}
    try:
        for name in spaces:
            sysctl.write(name, {_RP_FILTER: "1"})
        for client in (CLIENT, VISITOR, "lone.1"):  # one on each node, and none of them a backend
            world.ask(client, world.vip("my-web"))
            world.heard(client, world.vip("my-web"))
        return f"a client on each of 3 nodes was served with rp_filter=1 in {len(spaces)} namespaces"
    finally:
        for name, value in before.items():
            sysctl.write(name, {_RP_FILTER: value})


@check("reach.overlapping-subnets", "D34", scenario="twin")
def overlapping_subnets(world: World) -> str:
    """Two networks with the same subnet and the same VIP on one node are served separately."""
    for client, service in (("my-busybox.1", "my-web"), ("twin-busybox.1", "twin-web")):
        seen = set(reached(world.tasks(service), lambda: world.ask(client, "10.0.0.2").task))  # noqa: B023
        if seen != set(world.tasks(service)):
            raise Differs(f"{client} asked for {service} and was answered by {', '.join(sorted(seen))}")
    return "each client was answered by its own network's tasks only"


@check("reach.underlay-subnet", "moby/moby#24496", scenario="underlay")
def underlay_subnet(world: World) -> str:
    """A network that has the subnet of the network between the nodes is served, in both directions."""
    for client, service in ((CLIENT, "lone"), ("lone.1", "my-busybox")):
        same(service, world.ask(client, world.vip(service)).task, f"{service}.1")
    return "a service on either node answered"


@check("reach.node-process", "kubernetes e2e: should function for node-Service")
def node_process(world: World) -> str:
    """A process of the node itself, in no container, reaches a service on its own node and on another one."""
    for service in ("lone", "my-busybox"):
        world.doing = f"a process of worker2 connects to {service}"
        made = world.open(world.handle_in(world.node_namespace("worker2")), world.vip(service))
        same(service, world.who(made).task, f"{service}.1")
    return "a service on either node answered"


@check("reach.outsider", "D33, moby/moby#25295")
def outsider(world: World) -> str:
    """A container that is not on the network cannot reach the VIP."""
    try:
        seen = world.ask("side-web.1", world.vip("lone")).task
    except OSError as error:
        return f"side-web.1, on another network: {error}"
    raise Differs(f"side-web.1, on another network, was answered by {seen}")


@check("reach.forwarded", "D42")
def forwarded(world: World) -> str:
    """Packets that a container forwards for a machine behind it, such as a VPN peer, are load-balanced as well."""
    with world.service("worker2") as router:
        return same("answered by", world.ask_from_behind(router.tasks[0], world.vip("lone")).task, "lone.1")
