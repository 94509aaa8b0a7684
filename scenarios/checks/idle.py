"""Idle connections. Under the instruction clock idle time costs nothing, so the kernel's real time-outs are reached.

Each check uses connections of which a plane that forgets them loses one (`World.twins`), and uses each twice
afterwards. Such a plane may choose the same backend again, and it may let the first packet through but not its
acknowledgement.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from scenarios.checks import Waiting, check
from scenarios.checks.world import CLIENT, Differs, Pair, World, carry, same

Act = Callable[[Pair], None]


def _idle(world: World, seconds: float, before: Act, after: Act) -> Waiting:
    """Act on a pair of twins of my-web, idle for some seconds, then act twice again."""
    twins = world.twins(CLIENT, "my-web", world.servers(world.tasks("my-web"), world.port()))
    for each in twins:
        before(each)
    yield seconds
    world.doing = f"the connection after {seconds:.0f} s"
    try:
        for _ in range(2):
            for each in twins:
                after(each)
    except OSError as error:
        raise Differs(f"after {seconds:.0f} s: {type(error).__name__}") from error
    return f"used again after {seconds:.0f} s, twice"


def _nothing(pair: Pair) -> None:
    """Send nothing from either end."""


def _client_speaks(pair: Pair) -> None:
    carry(pair.client, pair.backend)


def _server_speaks(pair: Pair) -> None:
    carry(pair.backend, pair.client)


def _talk(pair: Pair) -> None:
    _client_speaks(pair)
    _server_speaks(pair)


def _client_closes(pair: Pair) -> None:
    _talk(pair)
    pair.client.shutdown(socket.SHUT_WR)
    pair.backend.recv(1)


def _server_closes(pair: Pair) -> None:
    _talk(pair)
    pair.backend.shutdown(socket.SHUT_WR)
    pair.client.recv(1)


@check("idle.tcp-1000s", "D28, moby/moby#31208, moby/moby#37466", idles=True)
def tcp(world: World) -> Waiting:
    """A connection that is idle for 1000 s, longer than IPVS's 900 s, goes on."""
    return _idle(world, 1000, _talk, _talk)


@check("idle.tcp-1h", "D28; conntrack's established time-out", idles=True)
def tcp_for_an_hour(world: World) -> Waiting:
    """A connection that is idle for an hour goes on."""
    # Conntrack keeps a connection for five days (net/netfilter/nf_conntrack_proto_tcp.c, tcp_timeouts). An hour takes
    # ten seconds in an emulated guest, so a plane that loses connections within 1000 s is not observed for an hour.
    servers = world.servers(world.tasks("my-web"), world.port())
    twins, early = world.twins(CLIENT, "my-web", servers), world.twins(CLIENT, "my-web", servers)
    for each in (*twins, *early):
        _talk(each)
    yield 1000
    world.doing = "another connection after 1000 s"
    try:
        for each in early:
            _talk(each)
    except OSError as error:
        raise Differs(f"another one was lost after 1000 s: {type(error).__name__}") from error
    yield 2600
    world.doing = "the connection after an hour"
    for each in twins:
        _talk(each)
    return "answered after 3600 s"


@check("idle.client-speaks-late", "a pool's connections: made in advance, used when needed", idles=True)
def client_speaks_late(world: World) -> Waiting:
    """A connection that carried nothing for 400 s goes on when the client sends."""
    return _idle(world, 400, _nothing, _client_speaks)


@check("idle.server-speaks-late", "a subscriber waits for what the server has to tell", idles=True)
def server_speaks_late(world: World) -> Waiting:
    """A connection that carried nothing for 400 s goes on when the server sends."""
    return _idle(world, 400, _nothing, _server_speaks)


@check("idle.udp-400s", "D24", idles=True, protocols=("udp",))
def udp(world: World) -> Waiting:
    """A UDP socket that is idle for 400 s, longer than IPVS's 300 s and conntrack's 120 s, is answered again."""
    handle = world.datagrams(CLIENT)
    world.ask_udp(CLIENT, world.vip("my-web"), by=handle)
    yield 400
    world.ask_udp(CLIENT, world.vip("my-web"), by=handle)
    return "answered after 400 s"


@check("idle.udp-late-answer", "a resolver that asks others first; conntrack's 30 s", idles=True, protocols=("udp",))
def udp_late_answer(world: World) -> Waiting:
    """The answer to a datagram arrives 25 s later, and comes from the VIP."""
    servers = world.servers(world.tasks("my-web"), port := world.port(), socket.SOCK_DGRAM)
    client, vip = world.datagrams(CLIENT), world.vip("my-web")
    client.sendto(b"?", (vip, port))
    server = servers[world.arrived(servers)]
    _, asker = server.recvfrom(16)
    yield 25
    world.doing = "the answer after 25 s"
    server.sendto(b"late", asker)
    try:
        _, (source, _) = client.recvfrom(16)
    except TimeoutError as error:
        raise Differs("the answer after 25 s did not arrive") from error
    return same("the answer after 25 s came from", source, vip)


@check("idle.half-closed", "D29, moby/moby#29655", idles=True)
def half_closed(world: World) -> Waiting:
    """A client that has closed its half of the connection gets what the server sends 200 s later."""
    return _idle(world, 200, _client_closes, _server_speaks)


@check("idle.half-closed-by-server", "D29; RFC 9293, 3.6", idles=True)
def half_closed_by_server(world: World) -> Waiting:
    """A server that has closed its half of the connection gets what the client sends 200 s later."""
    return _idle(world, 200, _server_closes, _client_speaks)


@check("idle.slow-server", "D29", idles=True)
def slow_server(world: World) -> Waiting:
    """A client that waits 600 s for an answer gets it."""
    return _idle(world, 600, _client_speaks, _server_speaks)
