"""The behaviour of servers: where they listen, who sends and who closes first, and from which address they answer."""

from __future__ import annotations

import socket
import struct

from scenarios.checks import check
from scenarios.checks.world import CLIENT, VISITOR, Differs, World, carry, retransmits, same

_CLIENTS = (CLIENT, VISITOR, "lone.1")  # one on each node, and none of them a backend of my-web
_IP_PKTINFO = 8  # include/uapi/linux/in.h; Python has no name for it before 3.12
_SHARED = 4  # the number of flows to servers that share a port
_ESTABLISHED = 1  # include/net/tcp_states.h


@check("server.own-address", "a server's listen address; RFC 1122, 4.1.3.5")
def own_address(world: World) -> str:
    """A server that listens only on its container's own address is reached through the VIP."""
    servers = world.servers(world.tasks("my-web"), world.port(), own_address=True)
    for client in _CLIENTS:
        pair = world.pair(client, "my-web", servers)
        carry(pair.client, pair.backend)
        carry(pair.backend, pair.client)
    return f"{len(_CLIENTS)} clients were served"


@check("server.own-address-udp", "a server's listen address; RFC 1122, 4.1.3.5", protocols=("udp",))
def own_address_udp(world: World) -> str:
    """A UDP server that listens only on its container's own address answers from the VIP."""
    servers = world.servers(world.tasks("my-web"), world.port(), socket.SOCK_DGRAM, own_address=True)
    return _answered(world, servers)


@check("server.own-address-hairpin", "D8; a server's listen address")
def own_address_hairpin(world: World) -> str:
    """A backend whose server listens only on its own address reaches itself through the VIP."""
    servers = world.servers(["lone.1"], world.port(), own_address=True)
    pair = world.pair("lone.1", "lone", servers)
    carry(pair.client, pair.backend)
    carry(pair.backend, pair.client)
    return "it reached itself"


@check(
    "server.udp-answer", "RFC 1122, 4.1.3.5: most servers leave the answer's source to the kernel", protocols=("udp",)
)
def udp_answer(world: World) -> str:
    """The answer of a UDP server that chooses no source address comes from the VIP."""
    return _answered(world, world.servers(world.tasks("my-web"), world.port(), socket.SOCK_DGRAM))


def _answered(world: World, servers: dict[str, socket.socket]) -> str:
    """Let each client send one datagram, and answer it by sendto()."""
    port = next(iter(servers.values())).getsockname()[1]
    for client in _CLIENTS:
        asking = world.datagrams(client)
        world.doing = f"{client} sends a datagram to port {port}"
        asking.sendto(b"?", (world.vip("my-web"), port))
        server = servers[world.arrived(servers)]
        _, asker = server.recvfrom(16)
        server.sendto(b"!", asker)
        _, (source, _) = asking.recvfrom(16)
        same(f"{client} was answered by", source, world.vip("my-web"))
    return f"{len(_CLIENTS)} clients were answered from the VIP"


@check("server.udp-answer-as-asked", "ip(7), IP_PKTINFO", protocols=("udp",))
def udp_answer_as_asked(world: World) -> str:
    """The answer of a UDP server that answers from the address to which the datagram was sent comes from the VIP."""
    servers = world.servers(world.tasks("my-web"), port := world.port(), socket.SOCK_DGRAM)
    for each in servers.values():
        each.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    for client in _CLIENTS:
        asking = world.datagrams(client)
        world.doing = f"{client} sends a datagram to port {port}"
        asking.sendto(b"?", (world.vip("my-web"), port))
        server = servers[world.arrived(servers)]
        _, ((_, _, where),), _, asker = server.recvmsg(16, socket.CMSG_SPACE(12))
        asked = struct.pack("=I4s4s", 0, where[8:12], bytes(4))
        server.sendmsg([b"!"], [(socket.IPPROTO_IP, _IP_PKTINFO, asked)], 0, asker)
        _, (source, _) = asking.recvfrom(16)
        same(f"{client} was answered by", source, world.vip("my-web"))
    return f"{len(_CLIENTS)} clients were answered from the VIP"


@check("server.udp-connects-back", "DTLS servers and OpenVPN: a connected socket per client", protocols=("udp",))
def udp_connects_back(world: World) -> str:
    """A UDP server that opens a connected socket for each client serves the client through that socket."""
    servers = world.servers(world.tasks("my-web"), port := world.port(), socket.SOCK_DGRAM)
    client, vip = world.datagrams(CLIENT), world.vip("my-web")
    world.doing = f"{CLIENT} sends a datagram to port {port}"
    client.sendto(b"?", (vip, port))
    task = world.arrived(servers)
    _, asker = servers[task].recvfrom(16)
    own = world.listen(task, port, socket.SOCK_DGRAM)
    own.connect(asker)
    for _ in range(3):
        own.send(b"!")
        _, (source, _) = client.recvfrom(16)
        same("answered by", source, vip)
        client.sendto(b"?", (vip, port))
        own.recv(16)
    return "3 datagrams each way, the answers from the VIP"


@check("server.answers-from-another-port", "RFC 1350, 4: TFTP; net/netfilter/nf_conntrack_tftp.c", protocols=("udp",))
def answers_from_another_port(world: World) -> str:
    """The answer that a UDP server sends from another port of its own comes from the VIP."""
    servers = world.servers(world.tasks("my-web"), port := world.port(), socket.SOCK_DGRAM)
    client = world.datagrams(CLIENT)
    world.doing = f"{CLIENT} sends a datagram to port {port}"
    client.sendto(b"?", (world.vip("my-web"), port))
    task = world.arrived(servers)
    _, asker = servers[task].recvfrom(16)
    world.datagrams(task).sendto(b"!", asker)
    _, (source, _) = client.recvfrom(16)
    return same("answered by", source, world.vip("my-web"))


@check("server.shares-port", "socket(7), SO_REUSEPORT: a socket for each worker", protocols=("udp",))
def shares_port(world: World) -> str:
    """When UDP servers share a port, the datagrams of one client socket reach one of them, as without a balancer."""
    port, vip = world.port(), world.vip("lone")
    servers: dict[str, socket.socket] = {}
    world.declare("lone.1", port, socket.SOCK_DGRAM)
    for number in (1, 2):
        made = servers[f"server {number}"] = world.handle("lone.1", socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("", port))
    for _ in range(_SHARED):
        client = world.datagrams(CLIENT)
        seen = set()
        for _ in range(3):
            client.sendto(b"?", (vip, port))
            seen.add(found := world.arrived(servers))
            servers[found].recv(16)
        if len(seen) > 1:
            raise Differs("3 datagrams of one socket came to both servers")
    return f"3 datagrams in each of {_SHARED} flows, each flow's to one server"


@check("server.speaks-first", "RFC 5321, 3.1: SMTP")
def speaks_first(world: World) -> str:
    """A client that has sent nothing receives what the server sends first."""
    servers = world.servers(world.tasks("my-web"), world.port())
    for client in _CLIENTS:
        pair = world.pair(client, "my-web", servers)
        carry(pair.backend, pair.client, b"220 ready\r\n")
        carry(pair.client, pair.backend, b"QUIT\r\n")
    return f"{len(_CLIENTS)} clients were greeted"


@check("server.closes-first", "RFC 9293, 3.6: the end that closes first still hears")
def closes_first(world: World) -> str:
    """The data that a server sends before it closes arrive, and so do the client's later data and its end."""
    pair = world.pair(CLIENT, "my-web", world.servers(world.tasks("my-web"), world.port()))
    block = bytes(range(256)) * 64
    carry(pair.backend, pair.client, block)
    pair.backend.shutdown(socket.SHUT_WR)
    same("then the client read", pair.client.recv(1), b"")
    carry(pair.client, pair.backend)
    pair.client.close()
    return same("16 KiB, then 5 bytes back, then the server read", pair.backend.recv(1), b"")


@check("server.full-backlog", "listen(2), tcp(7): tcp_abort_on_overflow")
def full_backlog(world: World) -> str:
    """A client that finds the server's backlog full is connected as soon as the server accepts again."""
    server = world.handle("lone.1", socket.SOCK_STREAM)
    server.bind(("", port := world.port()))
    world.declare("lone.1", port)
    server.listen(0)  # the backlog has room for one
    servers = {"lone.1": server}
    first = world.connect(CLIENT, world.vip("lone"), port)
    second = world.handle(CLIENT, socket.SOCK_STREAM)
    second.setblocking(False)
    second.connect_ex((world.vip("lone"), port))
    second.settimeout(10)
    if second.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED:
        raise Differs("connected while the backlog was full")
    taken = [world.accept(servers, each) for each in (first, second)]
    for each in taken:
        carry(each.client, each.backend)
        carry(each.backend, each.client)
    return f"connected after its SYN was sent {retransmits(second) + 1} times"
