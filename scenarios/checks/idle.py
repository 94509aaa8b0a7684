"""Time passes. Under the instruction clock idle time costs nothing, so the kernel's real time-outs are met."""

from __future__ import annotations

import socket

from scenarios.checks import Waiting, check
from scenarios.checks.world import CLIENT, Differs, World


@check("idle.tcp-1000s", "D28, moby/moby#31208, moby/moby#37466", idles=True)
def tcp(world: World) -> Waiting:
    """A connection idle for 1000 s, longer than IPVS's 900, goes on."""
    made = world.connect(CLIENT, world.vip("lone"))
    world.who(made)
    yield 1000
    world.doing = "the connection after 1000 s"
    try:
        world.who(made)
    except OSError as error:
        raise Differs(f"after 1000 s: {type(error).__name__}") from error
    return "answered after 1000 s"


@check("idle.tcp-1h", "D28; conntrack's established time-out", idles=True)
def tcp_for_an_hour(world: World) -> Waiting:
    """A connection idle for an hour goes on."""
    # Conntrack gives it five days (net/netfilter/nf_conntrack_proto_tcp.c, tcp_timeouts); an hour is ten seconds of an
    # emulated guest's time, and where not even 1000 s go by unpunished nobody waits for it.
    made, early = (world.connect(CLIENT, world.vip("lone")) for _ in range(2))
    for each in (made, early):
        world.who(each)
    yield 1000
    world.doing = "another connection after 1000 s"
    try:
        world.who(early)
    except OSError as error:
        raise Differs(f"another one was lost after 1000 s: {type(error).__name__}") from error
    yield 2600
    world.doing = "the connection after an hour"
    world.who(made)
    return "answered after 3600 s"


@check("idle.udp-400s", "D24", idles=True)
def udp(world: World) -> Waiting:
    """A UDP socket idle for 400 s, longer than IPVS's 300 and conntrack's 120, is answered again."""
    handle = world.datagrams(CLIENT)
    world.ask_udp(CLIENT, world.vip("my-web"), by=handle)
    yield 400
    world.ask_udp(CLIENT, world.vip("my-web"), by=handle)
    return "answered after 400 s"


@check("idle.half-closed", "D29, moby/moby#29655", idles=True)
def half_closed(world: World) -> Waiting:
    """A client that has closed its half still gets what the server sends 200 s later."""
    with world.service("worker1") as probe:
        client, backend = world.pair(CLIENT, probe, 7004)
        client.shutdown(socket.SHUT_WR)
        backend.recv(16)
        yield 200
        world.doing = "the answer after 200 s"
        backend.sendall(b"late")
        try:
            got = client.recv(16)
        except OSError as error:
            raise Differs(f"after 200 s: {type(error).__name__}") from error
        if got != b"late":
            raise Differs(f"after 200 s the client got {got!r}")
        return "what was sent after 200 s arrived"


@check("idle.slow-server", "D29", idles=True)
def slow_server(world: World) -> Waiting:
    """A client waits 600 s for an answer and gets it."""
    with world.service("worker1") as probe:
        client, backend = world.pair(CLIENT, probe, 7005)
        client.sendall(b"?")
        backend.recv(16)
        yield 600
        world.doing = "the answer after 600 s"
        backend.sendall(b"late")
        try:
            client.recv(16)
        except OSError as error:
            raise Differs(f"after 600 s: {type(error).__name__}") from error
        return "the answer after 600 s arrived"
