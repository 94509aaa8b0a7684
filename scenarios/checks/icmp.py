"""ICMP errors and IP fragments."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from scenarios.checks import check
from scenarios.checks.world import CLIENT, Differs, World, checksum, refused, same

_HEADERS = 28  # bytes of the IP and UDP headers
_OVERTAKEN = 2.0  # seconds by which an error may be later than what was sent after it
_REDIRECT = 5  # the type (include/uapi/linux/icmp.h)
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_PMTUDISC_PROBE, _IP_MTU = 10, 2, 3, 14  # include/uapi/linux/in.h


@check("icmp.port-unreachable", "kernel selftests: ICMP through NAT", protocols=("udp",))
def port_unreachable(world: World) -> str:
    """A datagram to a port that no backend serves is refused: the backend's ICMP error reaches the client's socket."""
    return _refused(world, CLIENT, 4712)


@check(
    "icmp.port-unreachable-hairpin",
    "derived from icmp.port-unreachable and identity.hairpin-lone-udp",
    protocols=("udp",),
)
def port_unreachable_hairpin(world: World) -> str:
    """A datagram that a backend sends to itself through its VIP, to a port that it does not serve, is refused."""
    port = world.port()
    world.listen("lone.1", port, socket.SOCK_DGRAM).close()
    return _refused(world, "lone.1", port)


def _refused(world: World, container: str, port: int) -> str:
    handle = world.datagrams(container)
    handle.connect((world.vip("lone"), port))
    world.doing = "a datagram to a closed port"
    refused(handle)
    return "refused"


@check("icmp.path-mtu", "katran: frag-needed to the right real", protocols=("udp",))
def path_mtu(world: World) -> str:
    """A client's "fragmentation needed", sent to the VIP, lowers the path MTU of the backend whose packet it quotes."""
    tasks, vip = world.tasks("my-web"), world.vip("my-web")
    world.alterable([world.netns(task) for task in tasks])  # their routes remember it (net/ipv4/route.c: mtu_expires)
    raw = world.handle(CLIENT, socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
    for number in range(len(tasks)):
        servers, client = world.servers(tasks, port := world.port(), socket.SOCK_DGRAM), world.datagrams(CLIENT)
        world.doing = f"flow {number + 1}: a datagram to port {port}"
        client.connect((vip, port))
        client.send(b"?")
        server = servers[world.arrived(servers)]
        _, seen_as = server.recvfrom(16)
        server.connect(seen_as)
        before = server.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        raw.sendto(_fragmentation_needed((vip, port), client.getsockname(), 1000), (vip, 0))
        client.send(b"?")  # follows the error on the same path
        with suppress(OSError):  # the socket gets the error itself, EMSGSIZE, as well
            server.recv(16)
        after = _lowered(server, 1000)
        if after != 1000:
            raise Differs(f"path MTU at the backend {before} before, {after} after an error that said 1000")
    return f"path MTU at the backends of {len(tasks)} flows {before} before, 1000 after"


def _lowered(handle: socket.socket, mtu: int) -> int:
    """Return a connected socket's path MTU when it has fallen to a value, or after a while.

    What was sent after the error may have overtaken it: Open vSwitch forwards packets that it has read together in the
    order of their flows (lib/dpif-netdev.c, dp_netdev_input__).
    """
    deadline = time.monotonic() + _OVERTAKEN
    while (found := int(handle.getsockopt(socket.IPPROTO_IP, _IP_MTU))) != mtu and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _fragmentation_needed(source: tuple[str, int], destination: tuple[str, int], mtu: int) -> bytes:
    """Return an ICMP error about a UDP datagram from source to destination."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    quoted = struct.pack(">BBHHHBBH", 0x45, 0, 1400, 1, 0x4000, 64, socket.IPPROTO_UDP, 0) + addresses
    quoted = quoted[:10] + checksum(quoted) + quoted[12:]
    quoted += struct.pack(">HHHH", source[1], destination[1], 1380, 0)
    message = struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quoted
    return message[:2] + checksum(message) + message[4:]


@check("icmp.redirect", "net/ipv4/route.c: ip_rt_send_redirect")
def redirect(world: World) -> str:
    """No ICMP redirect reaches a client or a backend, on one node or on two, or a backend that calls itself."""
    with world.service("worker2", "worker1") as clients, world.service("worker1", "worker2") as probe:
        # They are new, because a kernel that has sent nine redirects to an address sends it no more for a while.
        raws = {
            task: world.handle(task, socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
            for task in (*clients.tasks, *probe.tasks)
        }
        for caller in raws:
            for _ in range(_CALLS):
                with suppress(OSError):  # whether it is reached, other checks are about
                    world.ask(caller, probe.vip)
        told = [f"{task} by {source}" for task, raw in raws.items() for source in _redirects(raw)]
        if told:
            raise Differs(f"redirected: {', '.join(told[:4])}")
        return f"{len(raws)} containers heard no redirect"


_CALLS = 4
"""Connections of each caller, to two backends."""


def _redirects(raw: socket.socket) -> Iterator[str]:
    """Yield the sources of the redirects that a socket has got."""
    raw.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            message, (source, _) = raw.recvfrom(2048)
            if message[(message[0] & 15) * 4] == _REDIRECT:
                yield source


@check("icmp.narrow-underlay", "moby/moby#36689", scenario="narrow", protocols=("tcp", "udp"))
def narrow_underlay(world: World) -> str:
    """A sender whose unfragmentable datagrams do not fit the underlay is told the length that fits.

    It loses at most two datagrams before that.
    """
    client = world.datagrams(CLIENT)
    client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
    client.connect((world.vip("lone"), world.served))
    client.settimeout(2)
    before = client.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    lost = _too_long(world, client, before)
    after = client.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    world.doing = f"a datagram of {after} bytes"
    client.send(bytes(after - _HEADERS))
    same("bytes that came back", len(client.recv(2048)), after - _HEADERS)
    return f"{before} bytes are too long, {after} are not; {lost} lost before that was told"


def _too_long(world: World, client: socket.socket, size: int) -> int:
    """Send datagrams of this size until an error says that it is too long. Return how many were sent."""
    for sent in (1, 2):
        world.doing = f"datagram {sent} of {size} bytes"
        client.send(bytes(size - _HEADERS))
        try:
            client.recv(2048)
        except TimeoutError:
            continue
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return sent
            raise
        raise Differs(f"{size} bytes have passed")
    raise Differs(f"2 datagrams of {size} bytes: no answer, and no error")


@check("icmp.too-long-stays", "RFC 8899; RFC 9000, 14.3: QUIC", scenario="narrow", protocols=("udp",))
def too_long_stays(world: World) -> str:
    """A UDP flow stays with its backend when its client is told that a datagram is too long for the path."""
    with world.service("worker1", "worker1") as probe:
        servers = world.servers(probe.tasks, port := world.port(), socket.SOCK_DGRAM)
        flows = _FLOWS[world.in_turn]
        for _ in range(flows):
            client = world.datagrams(CLIENT)
            client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
            client.connect((probe.vip, port))
            client.settimeout(2)
            first = _comes_to(world, client, servers)
            _too_long(world, client, world.mtu("my-network"))
            same(f"a flow of {first}, after it was told, came to", _comes_to(world, client, servers), first)
        return f"stayed: {flows} of {flows}"


_FLOWS = {True: 1, False: 8}
"""How many flows show it: a plane that chooses in turn takes another backend if it chooses anew, or one at random."""


def _comes_to(world: World, client: socket.socket, servers: Mapping[str, socket.socket]) -> str:
    """Send a short datagram. Return the backend that gets it."""
    world.doing = "a short datagram"
    client.send(b"?")
    task = world.arrived(servers)
    servers[task].recv(16)
    return task


@check("icmp.fragments", "D26", protocols=("udp",))
def fragments(world: World) -> str:
    """A datagram of 4000 bytes arrives whole in both directions."""
    vip, sent = world.vip("my-web"), bytes(range(250)) * 16
    numbers = set()
    for _ in world.tasks("my-web"):
        handle = world.datagrams(CLIENT)
        world.doing = "a datagram of 4000 bytes"
        handle.sendto(sent, (vip, world.served))
        got, (source, _) = handle.recvfrom(8192)
        if got[1:] != sent[1:]:
            raise Differs(f"{len(got)} bytes came back, or changed")
        same("4000 bytes came back from", source, vip)
        numbers.add(got[0])
    return f"4000 bytes came back from {vip}, {len(numbers)} backends one after another"


@check("icmp.fragments-hairpin", "D26", protocols=("udp",))
def fragments_hairpin(world: World) -> str:
    """A datagram of 4000 bytes that a backend sends to itself through its VIP arrives whole in both directions."""
    handle = world.datagrams("lone.1")
    world.doing = "a datagram of 4000 bytes to oneself"
    handle.sendto(bytes(4000), (world.vip("lone"), world.served))
    got, (source, _) = handle.recvfrom(8192)
    return same("came back", (len(got), source), (4000, world.vip("lone")))


@check("icmp.ping", "D30, moby/libnetwork#1566")
def ping(world: World) -> str:
    """The VIP answers a ping from any container."""
    for client in (CLIENT, "visitor.1"):
        raw = world.handle(client, socket.SOCK_RAW, protocol=socket.IPPROTO_ICMP)
        raw.settimeout(5)
        message = struct.pack(">BBHHH", 8, 0, 0, 0x4242, 1)
        raw.sendto(message[:2] + checksum(message) + message[4:], (world.vip("lone"), 0))
        world.doing = f"{client} pings the VIP"
        while True:
            try:
                answer, (source, _) = raw.recvfrom(256)
            except TimeoutError as error:
                raise Differs(f"{client}: no answer in 5 s") from error
            except OSError as error:
                raise Differs(f"{client}: {error}") from error
            if answer[20] == 0 and answer[24:26] == b"\x42\x42":
                if checksum(answer[20:]) != bytes(2):  # a raw socket gets what any other program would not
                    raise Differs(f"{client}: the checksum of the answer is wrong")
                break
            if answer[20] == 3:
                raise Differs(f"{client}: unreachable, says {source}")
    return f"answered by {source}"
