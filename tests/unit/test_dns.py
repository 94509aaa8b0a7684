"""The lab's resolver: what it answers, and that its process may be killed as any other."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import cast

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from dataplanes.errors import BenchError
from dataplanes.kernel import netns
from scenarios import dns
from scenarios.dns import Resolver, _Server

RECORDS = {
    "one": {"my-web": ["10.0.0.2"], "tasks.my-web": [f"10.0.0.{last}" for last in range(3, 9)]},
    "two": {"my-web": ["10.0.1.2"]},
}

Addresses = tuple[tuple[str, int], tuple[str, int]]
"""Of UDP and of TCP."""


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    """Where a server on loopback answers, by UDP and by TCP, for a container that is on both networks."""

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", ended)
    wire, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wire.settimeout(5)
    with wire, far, socket.socket(type=socket.SOCK_STREAM) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(("127.0.0.1", 0))
        served = _Server(far)

        def serve() -> None:
            with suppress(SystemExit):
                served.serve()

        server = threading.Thread(target=serve)
        server.start()
        for message, handles in (({"records": RECORDS}, []), ({"name": "one", "networks": ["one", "two"]}, [udp, tcp])):
            socket.send_fds(wire, [json.dumps(message).encode()], [each.fileno() for each in handles])
            assert wire.recv(16) == b"ok"
        yield udp.getsockname(), tcp.getsockname()
        wire.shutdown(socket.SHUT_RDWR)  # its parent has gone
        server.join(5)
        assert not server.is_alive()
        for key in [*served._selector.get_map().values()]:  # its process would end now
            cast(socket.socket, key.fileobj).close()
        served._selector.close()


def by_udp(addresses: Addresses, query: bytes) -> DNSRecord:
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"no query", addresses[0])  # this one is not answered
        client.sendto(query, addresses[0])
        return DNSRecord.parse(client.recv(4096))


def by_tcp(addresses: Addresses, query: bytes) -> DNSRecord:
    with socket.create_connection(addresses[1], 5) as client:
        client.sendall(struct.pack("!H", len(query)) + query)
        answer = client.recv(4096)
        assert struct.unpack("!H", answer[:2]) == (len(answer) - 2,)
        return DNSRecord.parse(answer[2:])


@pytest.mark.parametrize("ask", [by_udp, by_tcp])
def test_a_name_is_its_vip_or_its_tasks_and_no_other_name_is_known(
    addresses: Addresses, ask: Callable[[Addresses, bytes], DNSRecord]
) -> None:
    def answers(name: str, kind: str = "A") -> list[str]:
        reply = ask(addresses, bytes(DNSRecord.question(name, kind).pack()))
        assert {(record.ttl, record.rtype) for record in reply.rr} <= {(600, QTYPE.A)}
        return [RCODE[reply.header.rcode], *(str(record.rdata) for record in reply.rr)]

    assert answers("my-web") == answers("MY-WEB.") == ["NOERROR", "10.0.0.2"]  # of the first network that has it
    assert answers("my-web", "AAAA") == ["NOERROR"]
    assert answers("example.org") == ["NXDOMAIN"]
    orders = {tuple(answers("tasks.my-web")) for _ in range(20)}
    assert {tuple(sorted(each)) for each in orders} == {(*RECORDS["one"]["tasks.my-web"], "NOERROR")}
    assert len(orders) > 1, "the tasks come in random order"


def test_a_stream_that_makes_no_sense_is_closed(addresses: Addresses) -> None:
    for nonsense in (b"\0", b"\0\3abc"):
        with socket.create_connection(addresses[1], 5) as client:
            client.sendall(nonsense)
            assert client.recv(16) == b""


def test_a_resolver_that_was_killed_is_an_error_of_ours() -> None:
    resolver = Resolver()
    try:
        resolver.publish({})
        os.kill(resolver.pid, signal.SIGKILL)
        os.waitid(os.P_PID, resolver.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(BenchError, match="the embedded DNS process died"):
            resolver.publish({})
    finally:
        resolver.close()


def test_a_query_from_a_container_that_is_removed_at_that_moment_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets of its namespace are closed when the query is about to be read."""

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", ended)
    wire, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with wire, far, socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.listen()
        udp.bind(("127.0.0.1", 0))
        served = _Server(far)
        socket.send_fds(wire, [b'{"name": "one", "networks": []}'], [udp.fileno(), tcp.fileno()])
        served._control(far)
        wire.send(b'{"gone": "one"}')  # it is ready first, so it is taken first
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"?", udp.getsockname())
        wire.shutdown(socket.SHUT_WR)
        with pytest.raises(SystemExit):
            served.serve()
        assert [wire.recv(16), wire.recv(16)] == [b"ok", b"ok"]
    served._selector.close()


def test_a_nodes_name_server_knows_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container's resolver does not know it asks there, and the answer is not silence."""
    monkeypatch.setattr(netns, "inside", nullcontext)
    monkeypatch.setattr(dns, "_PORT", 0)
    made: list[tuple[str, int]] = []
    sockets = dns._sockets

    def seen(name: str, address: str, port: int) -> tuple[socket.socket, socket.socket]:
        udp, tcp = sockets(name, address, port)
        made.append(udp.getsockname())
        return udp, tcp

    monkeypatch.setattr(dns, "_sockets", seen)
    resolver = Resolver()
    try:
        resolver.publish(RECORDS)
        resolver.add_node("node", "127.0.0.1")
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(DNSRecord.question("my-web").pack(), made[0])
            assert DNSRecord.parse(client.recv(512)).header.rcode == RCODE.NXDOMAIN
    finally:
        resolver.close()
