"""TCP connections in trouble: segments that connection tracking calls INVALID, resets, and a narrow path."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from dataplanes.kernel import netns
from scenarios.checks import check
from scenarios.checks.backends import PATIENCE
from scenarios.checks.world import CLIENT, Differs, Pair, World, bulk, carry, checksum

_REPAIR, _REPAIR_QUEUE, _QUEUE_SEQUENCE = 19, 20, 21  # TCP_*, include/uapi/linux/tcp.h
_RECEIVED, _SENT = 1, 2  # TCP_RECV_QUEUE, TCP_SEND_QUEUE
_REPAIR_OFF = -1  # TCP_REPAIR_OFF_NO_WP: without a probe of the window
_ESTABLISHED = "01"
_AHEAD = 1 << 30  # bytes; the largest possible window (RFC 7323), so it is beyond any window


@check("tcp.client-ahead", "moby/moby#40374, kubernetes/kubernetes#74839")
def client_ahead(world: World) -> str:
    """A connection goes on after the client has sent a segment ahead of the window."""
    return _goes_on(world, lambda caller, task, client, backend: (caller, client, backend))


@check("tcp.server-ahead", "moby/moby#40374, kubernetes/kubernetes#74839")
def server_ahead(world: World) -> str:
    """A connection goes on after the backend has sent a segment ahead of the window."""
    return _goes_on(world, lambda caller, task, client, backend: (task, backend, client))


@check("tcp.reset", "RFC 9293")
def reset(world: World) -> str:
    """A reset by either end reaches the other end, on connections to the VIP and to the backend's own address."""
    servers = world.servers(world.tasks("my-web"), world.port())
    for who in ("client", "backend"):
        pair = world.pair(CLIENT, "my-web", servers)
        _arrives(world, who, pair, "to the VIP")
        own = world.connect(CLIENT, world.address(pair.task), servers[pair.task].getsockname()[1])
        _arrives(world, who, world.accept(servers, own), "to the backend itself")
    return "4 resets arrived"


def _arrives(world: World, who: str, pair: Pair, way: str) -> None:
    resetting, other = (pair.client, pair.backend) if who == "client" else (pair.backend, pair.client)
    world.doing = f"a reset by the {who} of a connection {way}"
    resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    resetting.close()
    other.settimeout(5)
    try:
        other.recv(16)
    except ConnectionResetError:
        return
    except TimeoutError as error:
        raise Differs(f"{world.doing} did not arrive") from error
    raise Differs(f"{world.doing} arrived as an orderly end")


@check("tcp.narrow-underlay", "moby/moby#36689, docker/for-linux#594, cilium/cilium#47755", scenario="narrow")
def narrow_underlay(world: World) -> str:
    """256 KiB arrive whole in each direction where the underlay is too narrow for the overlay's MTU."""
    return bulk(world, world.pair(CLIENT, "lone", world.servers(["lone.1"], world.port())))


_Choose = Callable[[str, str, socket.socket, socket.socket], tuple[str, socket.socket, socket.socket]]


def _goes_on(world: World, choose: _Choose) -> str:
    """Send a segment ahead of the window on connections to three backends, and check that data still go both ways.

    `choose` gets the caller, the task and both ends, and returns the sender: its container, its end, and the other end.
    """
    for where, node, itself in (
        ("its node", "worker2", False),
        ("another node", "worker1", False),
        ("itself", "worker1", True),
    ):
        with world.service(node, node) as probe:  # with a single backend a lost entry would not be noticed
            servers, caller = world.servers(probe.tasks, world.port()), probe.tasks[0] if itself else CLIENT
            for _ in range(PATIENCE):
                pair = world.pair(caller, probe.name, servers)
                if not itself or pair.task == caller:
                    break
            else:
                raise Differs("a backend that calls its VIP never reaches itself")
            sender, near, far = choose(caller, pair.task, pair.client, pair.backend)
            world.doing = f"a segment ahead of the window, the backend is on {where}"
            _send_ahead(world, sender, near)
            for number in range(2):
                for one, other in ((near, far), (far, near)):
                    world.doing = (
                        f"exchange {number + 1} after a segment ahead of the window, the backend is on {where}"
                    )
                    carry(one, other)
    return "data went both ways afterwards: to a backend on the client's node, on another one, and to itself"


def _send_ahead(world: World, container: str, connection: socket.socket) -> None:
    """Send a segment of the connection with the right acknowledgement number that no window can hold."""
    sent, received = _sequences(connection)
    source, destination = _ends(world, container, connection)
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    ports, payload = struct.pack(">HH", source[1], destination[1]), b"too soon"
    # 5 words of header, ACK and PSH, a window of 512, urgent 0
    header = ports + struct.pack(">IIBBHHH", (sent + _AHEAD) & 0xFFFFFFFF, received, 5 << 4, 0x18, 512, 0, 0)
    sum_ = checksum(addresses + struct.pack(">HH", socket.IPPROTO_TCP, len(header + payload)) + header + payload)
    segment = header[:16] + sum_ + header[18:] + payload
    packet = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0x4000, 64, socket.IPPROTO_TCP, 0) + addresses
    raw = world.handle(container, socket.SOCK_RAW, protocol=socket.IPPROTO_RAW)
    with suppress(PermissionError):  # the sender's own path drops it
        raw.sendto(packet + segment, (destination[0], 0))


def _sequences(connection: socket.socket) -> tuple[int, int]:
    """Return the next sequence number that this end sends, and the next that it expects."""
    connection.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    numbers = []
    for queue in (_SENT, _RECEIVED):
        connection.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, queue)
        numbers.append(connection.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQUENCE) & 0xFFFFFFFF)
    connection.setsockopt(socket.IPPROTO_TCP, _REPAIR, _REPAIR_OFF)
    return numbers[0], numbers[1]


def _ends(world: World, container: str, connection: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return source and destination of the connection's packets. getpeername() may be made to return something else."""
    local = connection.getsockname()
    with netns.inside(world.netns(container)), open("/proc/thread-self/net/tcp", encoding="ascii") as file:
        for line in file.readlines()[1:]:
            _, source, destination, state, *_ = line.split()
            if state == _ESTABLISHED and _endpoint(source) == local:
                return local, _endpoint(destination)
    raise ConnectionResetError("the connection is gone")


def _endpoint(text: str) -> tuple[str, int]:
    address, _, port = text.partition(":")
    return socket.inet_ntoa(struct.pack("=I", int(address, 16))), int(port, 16)
