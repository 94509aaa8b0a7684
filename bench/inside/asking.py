"""One request to a VIP from a container, by each transport, and who answers."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from msgspec import Struct

from bench.documents.tracing import FlowProtocol
from scenarios.testbed import Testbed

PORT = 40_001
"""The client's port, or the number of its echo. Nobody else uses it in a fresh lab."""
_KINDS = {
    "tcp": (socket.SOCK_STREAM, 0),
    "udp": (socket.SOCK_DGRAM, 0),
    "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_MOST = 1 << 16  # bytes that are read at once


class Sending(Struct, frozen=True):
    """A request of a container to the VIP of a service."""

    origin: str
    vip: str
    service: str
    protocol: FlowProtocol
    data: bytes
    port: int = PORT


def autoload(protocol: FlowProtocol) -> None:
    """Have the kernel load what a transport needs: a follower sees only functions that are there when it comes."""
    if protocol == "sctp":
        with suppress(OSError):  # a kernel without SCTP is told of when something is asked
            socket.socket(socket.AF_INET, *_KINDS[protocol]).close()


def ask(lab: Testbed, request: Sending, patience: float) -> tuple[str, str]:
    """Send a request, and wait so many seconds. Return who answered from which address, or what went wrong and ""."""
    end = request.vip, lab.scenario.traffic.port
    try:
        with ExitStack() as stack:
            if request.protocol == "sctp":
                servers = stack.enter_context(_servers(lab, request.service, end[1]))
            made = stack.enter_context(lab.socket(request.origin, *_KINDS[request.protocol]))
            made.settimeout(patience)
            if request.protocol == "icmp":
                return _ping(made, request, patience)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it may have been used in this lab before
            # An association of SCTP would take all the container's addresses.
            own = _own(lab, request.origin, request.service) if request.protocol == "sctp" else ""
            made.bind((own, request.port))
            if request.protocol == "udp":
                made.sendto(request.data, end)
                answer, source = made.recvfrom(_MOST)
                return _who(answer), _address(source)
            made.connect(end)
            made.sendall(request.data)
            if request.protocol == "sctp":
                _answer(servers, patience)
            return _who(made.recv(_MOST)), _address(made.getpeername())
    except TimeoutError:
        return f"nothing for {patience:g} s", ""
    except OSError as error:
        return error.strerror or str(error), ""


def _own(lab: Testbed, container: str, service: str) -> str:
    """Return a container's address on the network of a service; "" if it is not there."""
    endpoints, network = lab.containers[container].endpoints, lab.service(service).network
    return next((each.address for each in endpoints if each.network == network), "")


@contextmanager
def _servers(lab: Testbed, service: str, port: int) -> Iterator[dict[str, socket.socket]]:
    """Yield a server by SCTP in each backend of a service, by its number: those of the lab have only TCP and UDP."""
    backends = {each.address for each in lab.service(service).backends}
    with ExitStack() as stack:
        made = {}
        for name in lab.containers:
            if (own := _own(lab, name, service)) in backends:
                made[name.rpartition(".")[2]] = server = stack.enter_context(lab.socket(name, *_KINDS["sctp"]))
                server.bind((own, port))
                server.listen()
        yield made


def _answer(servers: dict[str, socket.socket], patience: float) -> None:
    """Answer a request as the backends of the lab do. Raises TimeoutError if none comes."""
    ready, _, _ = select.select(list(servers.values()), [], [], patience)
    for number, server in servers.items():
        if server in ready:
            with server.accept()[0] as client:
                client.settimeout(patience)
                client.recv(_MOST)
                address, port = client.getpeername()
                client.sendall(f"{number} {address} {port}".encode())
            return
    raise TimeoutError


def _ping(made: socket.socket, request: Sending, patience: float) -> tuple[str, str]:
    head, deadline = struct.pack("!BBHHH", 8, 0, 0, request.port, 1), time.monotonic() + patience
    made.sendto(head[:2] + struct.pack("!H", _checksum(head)) + head[4:], (request.vip, 0))
    while time.monotonic() < deadline:
        packet, source = made.recvfrom(_MOST)
        kind: int
        kind, _, _, number, _ = struct.unpack_from("!BBHHH", packet, (packet[0] & 15) * 4)
        if kind == 0 and number == request.port:
            return "an echo", _address((source[0], request.port))
    raise TimeoutError


def _address(of: tuple[Any, ...]) -> str:
    return f"{of[0]}:{of[1]}"


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _who(answer: bytes) -> str:
    """Return what the backend tells of itself: its number, and the addresses that it saw."""
    words = answer.decode("ascii", "replace").split()
    return f"backend {words[0]}, which saw {words[1]}:{words[2]}" if len(words) > 2 else "a backend"
