"""The actions of a check on a testbed: it connects, asks, listens, and creates services of its own.

Clients and servers behave as most programs do: they leave the usual choices to the kernel, and try once. A check that
needs another behaviour says so.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

from msgspec import Struct

from dataplanes.kernel import netns
from dataplanes.model import Port, Protocol
from scenarios.checks.surroundings import Surroundings
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec, Task

CLIENT, VISITOR, LOCAL = "my-busybox.1", "visitor.1", "my-web.3"
"""Three clients: the article's on worker2, one on a node without backends, and one on a node with a backend."""
TIMEOUT = 6.0
"""Seconds until silence is taken for an answer.

What works takes milliseconds, and under load at most one second. That nobody has an address is told after up to four:
a SYN that is sent again may begin the three probes of ARP, one a second (net/ipv4/arp.c, arp_tbl).
"""
_AT_RANDOM = 8
_TCP_INFO_TOTAL_RETRANS = 100  # offset in struct tcp_info (include/uapi/linux/tcp.h)
_TCP_CLOSE = 7  # the state that the structure begins with (include/net/tcp_states.h)

_SILENCE, _DATAGRAMS = 2.0, 3  # seconds that an ICMP error may take, and how many datagrams may get none


class Differs(Exception):
    """The semantic does not hold. The message says what was seen."""


class Delayed(Differs):
    """A connection came about only after its SYN had been sent again."""


class Seen(Struct, frozen=True):
    """A connection or datagram as its backend saw it."""

    task: str
    source: str
    source_port: int
    destination: str
    port: int
    ttl: int  # 0 for TCP


class Pair(Struct, frozen=True):
    """The two ends of a connection, and the task at the far end."""

    client: socket.socket
    backend: socket.socket
    task: str


class Probe(Struct, frozen=True):
    """A service that a check has created for itself."""

    name: str
    vip: str
    tasks: tuple[str, ...]


class World(Surroundings):
    """A testbed as a check sees it: it looks, changes, connects and listens."""

    def __init__(self, testbed: Testbed, numbers: Iterator[int] | None = None) -> None:
        """Create the view.

        `numbers` numbers the services and ports of checks; no two checks on a testbed use the same number.
        """
        super().__init__(testbed)
        self.doing = "nothing yet"  # the last action, which is reported if a check ends in an error of the network
        self._open: list[socket.socket] = []
        self._numbers = numbers or count(1)

    def sibling(self) -> World:
        """Return a view of the same testbed for another check that runs at the same time."""
        return World(self._testbed, self._numbers)

    # -- connections ---------------------------------------------------------------------------------------

    def handle(self, container: str, kind: int, *, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket:
        """Return a socket of a container. It is closed when the check ends at the latest."""
        self._container(container)
        return self._keep(self._testbed.socket(container, kind, protocol, family=family))

    def handle_in(self, namespace: str) -> socket.socket:
        """Return a TCP socket in a namespace that is not a container's."""
        with netns.inside(namespace):
            return self._keep(socket.socket(socket.AF_INET, socket.SOCK_STREAM))

    def _keep(self, made: socket.socket) -> socket.socket:
        made.settimeout(TIMEOUT)
        self._open.append(made)
        return made

    def connect(
        self,
        container: str,
        address: str,
        port: int = 0,
        *,
        source_port: int = 0,
        protocol: int = 0,
        syns: int = 1,
        timeout: float | None = None,
    ) -> socket.socket:
        """Return a TCP connection, or one of another protocol. Port 0 is that of the tasks' servers."""
        port = port or self.served
        self.doing = f"{container} connects to {address}:{port}"
        made = self.handle(container, socket.SOCK_STREAM, protocol=protocol)
        made.settimeout(timeout or TIMEOUT)
        if source_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("", source_port))
        return self.open(made, address, port, syns=syns)

    def open(self, made: socket.socket, address: str, port: int = 0, *, syns: int = 1) -> socket.socket:
        """Connect a socket.

        Raises Delayed if TCP needs more than `syns` SYNs, because a retransmission hides a loss.
        """
        port = port or self.served
        made.connect((address, port))
        if made.proto in (0, socket.IPPROTO_TCP) and (sent := 1 + retransmits(made)) > syns:
            raise Delayed(f"connected to {address}:{port} only when the SYN had been sent {sent} times")
        return made

    def ask(
        self, container: str, address: str, port: int = 0, *, source_port: int = 0, timeout: float | None = None
    ) -> Seen:
        """Connect, have the backend tell whom it sees, and close."""
        with self.connect(container, address, port, source_port=source_port, timeout=timeout) as made:
            return self.who(made, container)

    def who(self, connection: socket.socket, container: str = CLIENT) -> Seen:
        """Have the backend at the other end of a container's connection tell whom it sees."""
        connection.sendall(b"w")
        return self.seen(container, connection.recv(256))

    def hang_up(self, container: str, address: str, source_port: int, *, syns: int = 1) -> Seen:
        """Make a connection that the server closes first, so that no TIME_WAIT remains at the client."""
        with self.connect(container, address, source_port=source_port, syns=syns) as made:
            made.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while part := made.recv(4096):
                answer += part
            finish(made)
        return self.seen(container, answer.rpartition(b"\r\n")[2])

    def datagrams(self, container: str) -> socket.socket:
        """Return an unconnected UDP socket."""
        return self.handle(container, socket.SOCK_DGRAM)

    def ask_udp(self, container: str, address: str, port: int = 0, *, by: socket.socket | None = None) -> Seen:
        """Ask by one datagram. The answer must come from the address that was asked."""
        seen, source = self.heard(container, address, port, by=by)
        if source != address:
            raise Differs(f"asked {address}, answered by {source}")
        return seen

    def heard(
        self, container: str, address: str, port: int = 0, *, by: socket.socket | None = None
    ) -> tuple[Seen, str]:
        """Ask by one datagram. Return what the backend saw of it, and the address from which the answer came."""
        port = port or self.served
        self.doing = f"{container} sends a datagram to {address}:{port}"
        handle = by or self.datagrams(container)
        handle.sendto(b"w", (address, port))
        answer, (source, *_) = handle.recvfrom(256)
        return self.seen(container, answer), source

    def seen(self, client: str, answer: bytes) -> Seen:
        """Parse a backend's answer, and find the backend among the containers on the client's networks."""
        if not answer.strip():
            raise ConnectionResetError("closed without an answer")
        number, source, source_port, destination, port, ttl = answer.decode().split()
        owner = self._owner(client, destination, int(number))
        return Seen(owner, source, int(source_port), destination, int(port), int(ttl))

    def ask_from_behind(self, container: str, address: str) -> Seen:
        """Connect from a machine behind a container, which forwards for it, and ask as `ask` does."""
        self.doing = f"a machine behind {container} connects to {address}:{self.served}"
        with self._behind(container) as namespace, self.handle_in(namespace) as made:
            return self.who(self.open(made, address), container)

    def port(self) -> int:
        """Return a port that nothing else in the lab uses."""
        return self._testbed.first_port + next(self._numbers)

    def listen(
        self, container: str, port: int, kind: int = socket.SOCK_STREAM, protocol: int = 0, *, address: str = ""
    ) -> socket.socket:
        """Start a server of the check in a container, on all its addresses or on one."""
        self.declare(container, port, kind, protocol)
        return self._listen(self.handle(container, kind, protocol=protocol), port, kind, address)

    def listen_in(self, namespace: str, port: int) -> socket.socket:
        """Start a TCP server in a node's own namespace."""
        self.alterable([namespace])
        return self._listen(self.handle_in(namespace), port, socket.SOCK_STREAM)

    def _listen(self, made: socket.socket, port: int, kind: int, address: str = "") -> socket.socket:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(16)
        return made

    def declare(self, container: str, port: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> None:
        """Declare a port that a task serves, where a service has declared ports only."""
        names: dict[int, Protocol] = {0: "tcp" if kind == socket.SOCK_STREAM else "udp"}
        names |= {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}
        self._declare(container, Port(names[protocol], port))

    def servers(
        self,
        tasks: Sequence[str],
        port: int,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
        *,
        own_address: bool = False,
    ) -> dict[str, socket.socket]:
        """Start a server of the check in each task, on all its addresses or only on its own."""
        own = {task: self.address(task) if own_address else "" for task in tasks}
        return {task: self.listen(task, port, kind, protocol, address=own[task]) for task in tasks}

    def arrived(self, servers: Mapping[str, socket.socket]) -> str:
        """Return the task whose server has received something."""
        ready, _, _ = select.select(list(servers.values()), [], [], TIMEOUT)
        if not ready:
            raise TimeoutError("nothing came to any backend")
        return next(task for task, server in servers.items() if server is ready[0])

    def accept(self, servers: Mapping[str, socket.socket], client: socket.socket) -> Pair:
        """Accept a connection at the backend that it has reached."""
        task = self.arrived(servers)
        return Pair(client, self._keep(servers[task].accept()[0]), task)

    def pair(self, container: str, service: str, servers: Mapping[str, socket.socket], *, protocol: int = 0) -> Pair:
        """Make a connection through a service's VIP to servers of the check."""
        port = next(iter(servers.values())).getsockname()[1]
        return self.accept(servers, self.connect(container, self.vip(service), port, protocol=protocol))

    def twins(self, container: str, service: str, servers: Mapping[str, socket.socket]) -> Sequence[Pair]:
        """Return two connections to the same one of several backends.

        A plane that forgets them and chooses anew for each takes two backends in turn, and one of the two is wrong. One
        that chooses at random may be right twice. Of such a plane there are so many connections that it cannot be.
        """
        if len(servers) < 2:
            raise ValueError(f"{service} has one backend: whatever is chosen anew, it is the same")
        if not self.in_turn:
            return [self.pair(container, service, servers) for _ in range(_AT_RANDOM)]
        made: dict[str, Pair] = {}
        while True:
            pair = self.pair(container, service, servers)
            if pair.task in made:
                return made[pair.task], pair
            made[pair.task] = pair

    # -- services ------------------------------------------------------------------------------------------

    @contextmanager
    def service(self, *nodes: str, vip: str = "", remapped: bool = False) -> Iterator[Probe]:
        """Create a service on my-network with a task on each of the nodes, and remove it after the block."""
        name = f"probe{next(self._numbers)}"
        tasks = [Task(f"{name}.{n + 1}", node, remapped=remapped) for n, node in enumerate(nodes)]
        self.create(ServiceSpec(name, "my-network", vip, tasks=tasks))
        try:
            yield Probe(name, self.vip(name), tuple(self.tasks(name)))
        finally:
            self.close()
            self.remove(name)

    def close(self) -> None:
        """Close the sockets that the check left open."""
        for each in self._open:
            each.close()
        self._open.clear()


def mapped(address: str) -> str:
    """Return an IPv4 address in the form in which an IPv6 socket takes it (RFC 4291, 2.5.5.2)."""
    return f"::ffff:{address}"


def lacks(what: str, family: int, kind: int, protocol: int = 0) -> Callable[[], str]:
    """Return the obstacle of checks that need such sockets: a function that says why the kernel makes none, or ""."""

    def obstacle() -> str:
        """Return why the running kernel makes no such sockets, or ""."""
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as error:
            return f"this kernel has no {what}: {error.strerror}"
        return ""

    return obstacle


no_ipv6 = lacks("IPv6", socket.AF_INET6, socket.SOCK_STREAM)


def retransmits(connection: socket.socket) -> int:
    """Return how many segments this end has sent again."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return int(struct.unpack_from("=I", info, _TCP_INFO_TOTAL_RETRANS)[0])


def finish(connection: socket.socket) -> None:
    """Close this end of a connection that the other one has closed, and wait until its port is free again.

    The last acknowledgement comes at once where kernels forward all packets, and later where programs do.
    """
    connection.shutdown(socket.SHUT_WR)
    end = time.monotonic() + TIMEOUT
    while connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _TCP_CLOSE:
        if time.monotonic() > end:
            raise Differs("the end of a connection is not acknowledged")
        time.sleep(0.001)


def carry(sender: socket.socket, receiver: socket.socket, data: bytes = b"chunk") -> None:
    """Send data from one end, and demand that they arrive at the other."""
    sender.sendall(data)
    same("arrived", _whole(receiver, len(data)), data)


def refused(handle: socket.socket) -> None:
    """Demand that one of several datagrams of a connected socket is refused, and that none is answered.

    A host sends each other one only so many ICMP errors in a second (net/ipv4/icmp.c, icmpv4_xrlim_allow).
    """
    handle.settimeout(_SILENCE)
    for _ in range(_DATAGRAMS):
        try:
            handle.send(b"?")
            answer = handle.recv(16)
        except TimeoutError:
            continue
        except ConnectionRefusedError:
            return
        raise Differs(f"{answer!r} was answered from a closed port")
    raise Differs(f"silence after {_DATAGRAMS} datagrams: no ICMP error arrived")


def same(what: str, seen: object, expected: object) -> str:
    """Return the observation if it is the expected one. Raises Differs otherwise."""
    if seen != expected:
        raise Differs(f"{what}: {seen}, expected {expected}")
    return f"{what}: {seen}"


def shares(seen: Sequence[str]) -> dict[str, int]:
    """Count how often each name was seen."""
    return {name: seen.count(name) for name in sorted(set(seen))}


def bulk(world: World, pair: Pair) -> str:
    """Send 256 KiB each way on a connection."""
    block = bytes(range(256)) * 64
    for way, sender, receiver in (("to", pair.client, pair.backend), ("from", pair.backend, pair.client)):
        for number in range(16):
            world.doing = f"block {number + 1} of 16 {way} {pair.task}"
            sender.sendall(block)
            if _whole(receiver, len(block)) != block:
                raise Differs(f"{world.doing} arrived cut short, or changed")
    return "256 KiB each way, unchanged"


def _whole(connection: socket.socket, size: int) -> bytes:
    """Return `size` bytes, or fewer if the other end closes."""
    got = b""
    while len(got) < size and (part := connection.recv(size - len(got))):
        got += part
    return got


def checksum(data: bytes) -> bytes:
    """Return the checksum of IPv4, ICMP and TCP headers (RFC 1071) over an even number of bytes."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF)
