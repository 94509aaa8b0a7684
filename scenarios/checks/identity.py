"""The addresses that are seen: the client's by the backend, and the VIP by the client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from scenarios.checks import check
from scenarios.checks.backends import reached
from scenarios.checks.world import CLIENT, LOCAL, Differs, World, mapped, no_ipv6, same


def _source(world: World, client: str, service: str) -> str:
    own = world.address(client)
    seen = {each.source for each in (world.ask(client, world.vip(service)) for _ in range(3))}
    if seen != {own}:
        raise Differs(f"backend saw {', '.join(sorted(seen))}, client is {own}")
    return f"backend saw {own}, the client's own"


@check("identity.source-same-node", "D9")
def source_same_node(world: World) -> str:
    """A backend on the client's node sees the client's own address."""
    return _source(world, LOCAL, "lone")


@check("identity.source-other-node", "D9, moby/moby#39665")
def source_other_node(world: World) -> str:
    """A backend on another node sees the client's own address."""
    world.demand_apart(CLIENT, "lone.1")
    return _source(world, CLIENT, "lone")


@check("identity.source-udp", "D9", protocols=("udp",))
def source_udp(world: World) -> str:
    """Backends see the client's own address by UDP."""
    own = world.address(CLIENT)
    seen = {world.heard(CLIENT, world.vip("my-web"))[0].source for _ in range(3)}
    return same("backends saw", sorted(seen), [own])


@check("identity.source-port", "kubernetes e2e: preserve source pod IP")
def source_port(world: World) -> str:
    """The backend sees the client's own source port."""
    seen = world.ask(CLIENT, world.vip("lone"), source_port=23456)
    return same("backend saw port", seen.source_port, 23456)


@check("identity.other-replica", "D7, moby/moby#24377")
def other_replica(world: World) -> str:
    """A backend that calls its own VIP reaches the other replicas, and they see its own address."""
    others: dict[str, str] = {}

    def ask() -> str:
        seen = world.ask("my-web.1", world.vip("my-web"))
        if seen.task != "my-web.1":
            others[seen.task] = seen.source
        return seen.task

    reached(["my-web.2", "my-web.3"], ask)
    own = world.address("my-web.1")
    if set(others) != {"my-web.2", "my-web.3"}:
        raise Differs(f"reached {', '.join(sorted(others)) or 'none of the others'}")
    return same("they saw", sorted(set(others.values())), [own])


@check("identity.hairpin", "D8, moby/moby#24398")
def hairpin(world: World) -> str:
    """A backend that calls its own VIP reaches itself when its turn comes."""
    seen = reached(world.tasks("my-web"), lambda: world.ask("my-web.1", world.vip("my-web")).task)
    if "my-web.1" not in seen:
        raise Differs(f"{len(seen)} calls reached {', '.join(sorted(set(seen)))}, never itself")
    return f"itself {seen.count('my-web.1')} times of {len(seen)}"


@check("identity.hairpin-lone", "D8; kubernetes e2e: hairpin")
def hairpin_lone(world: World) -> str:
    """A service's only backend reaches itself through its VIP by TCP."""
    return same("answered by", world.ask("lone.1", world.vip("lone")).task, "lone.1")


@check("identity.hairpin-lone-udp", "D8, D23", protocols=("udp",))
def hairpin_lone_udp(world: World) -> str:
    """A service's only backend reaches itself through its VIP by UDP, and the answer comes from the VIP."""
    return same("answered by", world.ask_udp("lone.1", world.vip("lone")).task, "lone.1")


@check("identity.hairpin-source", "D10")
def hairpin_source(world: World) -> str:
    """A backend that reaches itself sees its own address as the source."""
    seen = world.ask("lone.1", world.vip("lone")).source
    return same("it saw", seen, world.address("lone.1"))


@check("identity.peer-name", "D11")
def peer_name(world: World) -> str:
    """The client's getpeername() returns the VIP."""
    made = world.connect(CLIENT, world.vip("lone"))
    return same("getpeername()", made.getpeername()[0], world.vip("lone"))


@check("identity.peer-name-udp", "D11, D23", protocols=("udp",))
def peer_name_udp(world: World) -> str:
    """getpeername() of a connected UDP socket returns the VIP, and the socket receives the answers."""
    made = world.datagrams(CLIENT)
    made.connect((world.vip("lone"), world.served))
    world.doing = "a datagram by a connected socket"
    made.send(b"w")
    made.recv(256)
    return same("getpeername()", made.getpeername()[0], world.vip("lone"))


@check("identity.peer-name-mapped", "cilium/cilium#9923", obstacle=no_ipv6)
def peer_name_mapped(world: World) -> str:
    """getpeername() of an IPv6 socket that is connected to the VIP's IPv4-mapped address returns that address."""
    vip = mapped(world.vip("lone"))
    made = world.handle(CLIENT, socket.SOCK_STREAM, family=socket.AF_INET6)
    world.doing = f"{CLIENT} connects to {vip}"
    world.open(made, vip)
    return same("getpeername()", made.getpeername()[0], vip)


@check("identity.peer-name-mapped-udp", "cilium/cilium#39470", obstacle=no_ipv6, protocols=("udp",))
def peer_name_mapped_udp(world: World) -> str:
    """getpeername() of a UDP socket that is connected to the VIP's IPv4-mapped address returns that address.

    The answers come from that address, and the socket receives them.
    """
    vip = mapped(world.vip("lone"))
    made = world.handle(CLIENT, socket.SOCK_DGRAM, family=socket.AF_INET6)
    made.connect((vip, world.served))
    world.doing = f"a datagram by a socket connected to {vip}"
    made.send(b"w")
    source = made.recvfrom(256)[1][0]
    return same("getpeername() and the answer's source", {made.getpeername()[0], source}, {vip})


@check("identity.ttl", "D43", protocols=("udp",))
def ttl(world: World) -> str:
    """A packet arrives with the TTL with which it was sent: the overlay is one hop."""
    handle = world.datagrams(CLIENT)  # the second datagram of a flow may take another way than the first
    seen = [world.heard(CLIENT, world.vip("lone"), by=handle)[0].ttl for _ in range(2)]
    return same("TTL of two datagrams at the backend", seen, [64, 64])


@check("identity.direct-after-vip", "found by bench run --workload others")
def direct_after_vip(world: World) -> str:
    """After use through the VIP, a source port reaches the backend's own address by the second SYN at the latest."""
    # A connection's first sequence number and its timestamps depend on the address to which it was opened
    # (net/core/secure_seq.c). So the backend may take the first SYN for an old segment of the connection that it has
    # just closed, and answer with an acknowledgement (net/ipv4/tcp_minisocks.c, tcp_timewait_state_process). Chance
    # decides whether it does.
    world.hang_up(CLIENT, world.vip("lone"), 23458)
    seen = world.hang_up(CLIENT, world.address("lone.1"), 23458, syns=2)
    return same("answered by", seen.task, "lone.1")


@check("identity.direct-after-vip-udp", "found by bench explore", protocols=("udp",))
def direct_after_vip_udp(world: World) -> str:
    """A UDP socket that asks a backend through the VIP and by its own address is answered from the one it has asked."""
    handle = world.datagrams(CLIENT)
    for address in (world.vip("lone"), world.address("lone.1")) * 2:
        world.ask_udp(CLIENT, address, by=handle)
    return "asked each address twice, and answered from it"


@check("identity.two-vips-one-port", "cilium/cilium#11810")
def two_vips_one_port(world: World) -> str:
    """A client can use one source port to the same backend behind two VIPs at once, and both connections work."""
    with _second_vip(world) as vip:
        first = world.connect(CLIENT, world.vip("lone"), source_port=23457)
        second = world.handle(CLIENT, socket.SOCK_STREAM)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        second.bind(("", 23457))
        world.doing = "the second connection from port 23457"
        world.open(second, vip)
        for each in (second, first):
            world.who(each)
        return "both answered"


@check("identity.two-vips-one-socket", "cilium/cilium#11810; RFC 1122, 4.1.3.5", protocols=("udp",))
def two_vips_one_socket(world: World) -> str:
    """A UDP socket that asks one backend through two VIPs is answered from the VIP that it has asked."""
    with _second_vip(world) as second:
        handle = world.datagrams(CLIENT)
        for vip in (world.vip("lone"), second) * 2:
            world.ask_udp(CLIENT, vip, by=handle)
        return "asked each VIP twice, and answered from it"


@check("identity.vip-after-vip", "derived from identity.two-vips-one-port and identity.direct-after-vip")
def vip_after_vip(world: World) -> str:
    """After use through one VIP, a source port reaches the same backend through another VIP.

    It does so by the second SYN at the latest, and so does its next connection through the first VIP.
    """
    with _second_vip(world) as second:
        for vip in (world.vip("lone"), second, world.vip("lone")):
            world.hang_up(CLIENT, vip, 23459, syns=2)  # the second SYN: see direct_after_vip
        return "answered through the one, the other, and the first again"


@contextmanager
def _second_vip(world: World) -> Iterator[str]:
    """Give the backend of `lone` a second VIP for the block."""
    alias = replace(world.definition("lone"), name="alias", vip=world.spare(5))
    world.apply([alias])
    try:
        yield alias.vip
    finally:
        world.close()
        world.withdraw([alias])
