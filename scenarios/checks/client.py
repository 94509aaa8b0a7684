"""The behaviour of clients: how they bind, when they send, and how they end."""

from __future__ import annotations

import socket
import struct

from dataplanes.kernel import iptables, nft
from scenarios.checks import check
from scenarios.checks.backends import reached
from scenarios.checks.world import CLIENT, Differs, World, carry, checksum, same
from scenarios.dns import ADDRESS

_TIMES = 4
_SO_NO_CHECK = 11  # include/uapi/asm-generic/socket.h
_ATTEMPTS = 12  # of a plane that chooses at random, all go to the same one of three once in 500,000 times


@check("client.never-speaks", "a health check: connect, close")
def never_speaks(world: World) -> str:
    """When a client connects and closes without sending anything, the backend sees the connection and its end."""
    servers = world.servers(world.tasks("my-web"), world.port())

    def close() -> str:
        pair = world.pair(CLIENT, "my-web", servers)
        pair.client.close()
        same("the backend read", pair.backend.recv(1), b"")
        return pair.task

    seen = reached(list(servers), close)
    return same("the end was seen by", sorted(set(seen)), sorted(servers))


@check("client.half-closes", "RFC 9293, 3.6: a request that ends with the half of the connection")
def half_closes(world: World) -> str:
    """A client that closes its half of the connection after the request gets the whole answer, and then the end."""
    pair = world.pair(CLIENT, "my-web", world.servers(world.tasks("my-web"), world.port()))
    carry(pair.client, pair.backend)
    pair.client.shutdown(socket.SHUT_WR)
    same("the backend read", pair.backend.recv(1), b"")
    carry(pair.backend, pair.client, bytes(range(256)) * 64)
    pair.backend.close()
    return same("16 KiB, then the client read", pair.client.recv(1), b"")


@check("client.resets", "socket(7), SO_LINGER: a client that is killed")
def resets(world: World) -> str:
    """A client's reset reaches the backend, and the client connects again from the same port."""
    servers, port = world.servers(world.tasks("my-web"), world.port()), 23459
    for _ in range(_TIMES):
        address = (world.vip("my-web"), next(iter(servers.values())).getsockname()[1])
        pair = world.accept(servers, world.connect(CLIENT, *address, source_port=port))
        carry(pair.client, pair.backend)
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.client.close()
        try:
            pair.backend.recv(1)
        except ConnectionResetError:
            continue
        raise Differs("the backend read the end of the connection, no reset")
    return f"{_TIMES} connections from one port, each reset was noticed"


@check("client.refused-before", "cilium/cilium#11742")
def refused_before(world: World) -> str:
    """A client that one backend has refused reaches another one from the same port within twelve attempts."""
    port = world.port()
    servers = world.servers(world.tasks("my-web")[1:], port)

    def attempt(source_port: int) -> str:
        try:
            return world.accept(servers, world.connect(CLIENT, world.vip("my-web"), port, source_port=source_port)).task
        except ConnectionRefusedError:
            return ""

    refused = next((each for each in range(23460, 23500) if not attempt(each)), 0)
    if not refused:
        raise Differs("40 connections, none to the backend that does not serve")
    for number in range(_ATTEMPTS):
        if task := attempt(refused):
            return f"refused, then served by {task} at attempt {number + 1}"
    raise Differs(f"refused, and then {_ATTEMPTS} times more, though {len(servers)} of 3 backends serve")


@check("client.bound-address", "bind(2) before connect(2), as `curl --interface` does")
def bound_address(world: World) -> str:
    """A client that binds its own address before it connects is served."""
    return same("answered by", _bound(world, CLIENT), "lone.1")


@check("client.bound-address-udp", "bind(2) before sendto(2), as `dig -b` does", protocols=("udp",))
def bound_address_udp(world: World) -> str:
    """A client that binds its own address before it sends a datagram is answered from the VIP."""
    handle = world.datagrams(CLIENT)
    handle.bind((world.address(CLIENT), 0))
    return same("answered by", world.ask_udp(CLIENT, world.vip("lone"), by=handle).task, "lone.1")


@check("client.bound-address-hairpin", "D8; bind(2) before connect(2)")
def bound_address_hairpin(world: World) -> str:
    """A backend that binds its own address before it connects reaches itself through its VIP."""
    return same("answered by", _bound(world, "lone.1"), "lone.1")


def _bound(world: World, client: str) -> str:
    made = world.handle(client, socket.SOCK_STREAM)
    made.bind((world.address(client), 0))
    world.doing = f"{client}, bound to its own address, connects to the VIP"
    return world.who(world.open(made, world.vip("lone")), client).task


@check("client.fixed-port-udp", "RFC 5905, 9.1: NTP asks from a fixed port", protocols=("udp",))
def fixed_port_udp(world: World) -> str:
    """A UDP client that always uses one source port is answered each time it starts."""
    for _ in range(_TIMES):
        with world.datagrams(CLIENT) as handle:
            handle.bind(("", 123))
            world.ask_udp(CLIENT, world.vip("my-web"), by=handle)
    return f"answered {_TIMES} times"


@check("client.no-checksum", "RFC 768; RFC 7348, 5: VXLAN", protocols=("udp",))
def no_checksum(world: World) -> str:
    """Datagrams that have no checksum arrive in both directions, and have none then, or a right one."""
    servers = world.servers(tasks := world.tasks("my-web"), port := world.port(), socket.SOCK_DGRAM)
    raws = {each: world.handle(each, socket.SOCK_RAW, protocol=socket.IPPROTO_UDP) for each in (CLIENT, *tasks)}
    seen = set()
    for _ in tasks:
        handle = world.datagrams(CLIENT)
        for each in (handle, *servers.values()):
            each.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        for number in (1, 2):  # the second datagram of a flow may take another way than the first
            world.doing = f"datagram {number} without a checksum, to port {port}"
            handle.sendto(b"??", (world.vip("my-web"), port))
            task = world.arrived(servers)
            _, asker = servers[task].recvfrom(16)
            seen.add(_checksum(raws[task], asker[1], port))
            world.doing = f"the answer without a checksum of {task}"
            servers[task].sendto(b"!!", asker)
            handle.recv(16)
            seen.add(_checksum(raws[CLIENT], port, handle.getsockname()[1]))
    if "a wrong one" in seen:
        raise Differs(f"all arrived; the checksums that they had then: {', '.join(sorted(seen))}")
    return f"2 datagrams in each of {len(tasks)} flows, and their answers; checksum: {', '.join(sorted(seen))}"


def _checksum(raw: socket.socket, source_port: int, port: int) -> str:
    """Tell the checksum of the next datagram between two ports that a raw socket has got.

    Its kernel may have taken it without looking: the checksum of what comes by a veth counts as verified.
    """
    while True:
        packet = raw.recv(2048)
        datagram = packet[(packet[0] & 15) * 4 :]
        if struct.unpack_from(">HH", datagram) == (source_port, port):
            if datagram[6:8] == bytes(2):
                return "none"
            covered = packet[12:20] + struct.pack(">HH", socket.IPPROTO_UDP, len(datagram)) + datagram
            return "a wrong one" if any(checksum(covered)) else "a right one"


@check("client.same-port", "two clients that ask from port 123; net/netfilter/nf_nat_core.c: get_unique_tuple")
def same_port(world: World) -> str:
    """Two clients of a node that use the same source port at the same time are both served."""
    clients, port = (CLIENT, "my-web.1"), 23464
    made = {each: world.connect(each, world.vip("lone"), source_port=port) for each in clients}
    for _ in range(2):
        for client, connection in made.items():
            world.doing = f"{client} speaks on its connection from port {port}"
            same(f"{client} was answered by", world.who(connection, client).task, "lone.1")
    return f"{' and '.join(clients)} were served from port {port}"


@check("client.own-notrack", "nft(8), notrack; iptables-extensions(8), CT --notrack", protocols=("tcp", "udp"))
def own_notrack(world: World) -> str:
    """A container that exempts its own packets from connection tracking reaches services."""
    with world.service("worker2") as probe:
        (name,) = world.alterable([world.netns(probe.tasks[0])])
        chains = [
            f"add chain ip own {hook} {{ type filter hook {hook} priority raw; }}\nadd rule ip own {hook} notrack"
            for hook in ("output", "prerouting")
        ]
        nft.carry_out(name, "\n".join(["add table ip own", *chains]))
        same("by TCP", world.ask(probe.tasks[0], world.vip("lone")).task, "lone.1")
        return same("by TCP and UDP, answered by", world.ask_udp(probe.tasks[0], world.vip("lone")).task, "lone.1")


@check("client.own-resolver", "net/netfilter/nf_conntrack_proto.c: nf_ct_netns_get", protocols=("tcp", "udp"))
def own_resolver(world: World) -> str:
    """A container without the rules of the embedded DNS reaches services and itself, and is reached."""
    with world.service("worker2") as probe:
        (own,) = probe.tasks
        (name,) = world.alterable([world.netns(own)])
        rules = [rule[3:] for rule in iptables.rules(name, "nat") if rule.startswith("-A ") and ADDRESS in rule]
        iptables.program(name, "nat", [f"-D {rule}" for rule in rules])
        same("by TCP", world.ask(own, world.vip("lone")).task, "lone.1")
        same("by UDP", world.heard(own, world.vip("lone"))[0].task, "lone.1")
        same("itself", world.ask(own, probe.vip).task, own)
        return same(f"without {len(rules)} rules; reached by another", world.ask(CLIENT, probe.vip).task, own)
