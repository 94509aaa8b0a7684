"""Embedded DNS at 127.0.0.11 in every container, as in Docker: one resolver for the whole lab, with sockets in each.

`SERVICE` resolves to its VIP, and `tasks.SERVICE` to every task in random order, with TTL 600. Queries for other types
of these names get NOERROR and no answer, and no other name resolves. The sockets are opened inside the namespace at
ports of their own, and NAT rules lead port 53 there. A child process serves them all. It imports dnslib with the first
query, because most measured labs never ask.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import socket
import struct
from typing import TYPE_CHECKING

from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel import interrupt, iptables, netns, process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scenarios.journal import Journal

ADDRESS = "127.0.0.11"
ENTRIES = 10
"""The number of entries that the resolver's rules have in a container's nat table.

They are six rules, and two chains, each with a head and an end.
"""
_TTL, _PORT = 600, 53

Records = dict[str, dict[str, list[str]]]
"""Network -> name -> addresses."""


def resolv_conf(journal: Journal, name: str) -> None:
    """Write the file that `ip netns exec` shows as /etc/resolv.conf: /etc/netns/NAME/resolv.conf."""
    try:
        with open(f"{journal.etc(name)}/resolv.conf", "w", encoding="ascii") as file:
            file.write(f"nameserver {ADDRESS}\noptions ndots:0\n")
    except OSError as error:
        where = str(error.filename or name)
        raise Prerequisite("cannot write resolv.conf", where=where, why=error.strerror or "") from error


def _rules(udp: int, tcp: int) -> list[str]:
    """Return the article's rules: out through port 53 to the resolver's own ports, and back."""
    lines = [
        ":DOCKER_OUTPUT - [0:0]",
        ":DOCKER_POSTROUTING - [0:0]",
        f"-A OUTPUT -d {ADDRESS}/32 -j DOCKER_OUTPUT",
        f"-A POSTROUTING -d {ADDRESS}/32 -j DOCKER_POSTROUTING",
    ]
    for name, port in (("tcp", tcp), ("udp", udp)):
        lines.append(
            f"-A DOCKER_OUTPUT -d {ADDRESS}/32 -p {name} -m {name} --dport 53 -j DNAT --to-destination {ADDRESS}:{port}"
        )
    for name, port in (("tcp", tcp), ("udp", udp)):
        lines.append(
            f"-A DOCKER_POSTROUTING -s {ADDRESS}/32 -p {name} -m {name} --sport {port} -j SNAT --to-source :53"
        )
    return lines


def _sockets(name: str, address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return sockets in a namespace that wait for queries by UDP and by TCP, at any port for 0."""
    with netns.inside(name):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        udp.bind((address, port))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        tcp.bind((address, port))
        tcp.listen(16)
    return udp, tcp


class Resolver:
    """The lab's resolver process and the connection to it. A change is in force when the call returns."""

    def __init__(self) -> None:
        self._wire, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._wire.close()
                process.die_with(parent)
                for number in interrupt.taken():
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it; the parent ends this process
                process.keep_only(far.fileno())
                _Server(far).serve()
            finally:
                os._exit(0)
        far.close()

    def add(self, name: str, networks: list[str]) -> None:
        """Serve a container's namespace with the records of the networks it is on."""
        udp, tcp = _sockets(name, ADDRESS, 0)
        iptables.program(name, "nat", _rules(udp.getsockname()[1], tcp.getsockname()[1]))
        self._serve(name, networks, udp, tcp)

    def add_node(self, name: str, address: str) -> None:
        """Serve a node's own namespace at port 53 of an address, without records: no name resolves there."""
        self._serve(name, [], *_sockets(name, address, _PORT))

    def _serve(self, name: str, networks: list[str], udp: socket.socket, tcp: socket.socket) -> None:
        with udp, tcp:
            self._call({"name": name, "networks": networks}, [udp.fileno(), tcp.fileno()])

    def remove(self, name: str) -> None:
        """Close the sockets in a container's namespace, which would keep the namespace alive. Idempotent."""
        self._call({"gone": name}, [])

    def publish(self, records: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Replace all records."""
        self._call({"records": records}, [])

    def close(self) -> None:
        """End the process. Idempotent."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._wire.close()

    def _call(self, message: object, handles: list[int]) -> None:
        try:
            socket.send_fds(self._wire, [json.dumps(message).encode()], handles)
            answer = self._wire.recv(16)
        except OSError:  # the process was killed
            answer = b""
        if answer != b"ok":
            raise BenchError("the embedded DNS process died", why="it was killed, or its own error is above")


class _Server:
    """The part that runs in the child."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._records: Records = {}
        self._sockets: dict[str, list[socket.socket]] = {}  # namespace -> those that wait for queries there
        self._selector = selectors.DefaultSelector()
        self._selector.register(wire, selectors.EVENT_READ, self._control)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                try:
                    key.data(key.fileobj)
                except OSError:  # of one client, or of a container that was removed since the socket was ready
                    continue

    def _control(self, wire: socket.socket) -> None:
        data, handles, _, _ = socket.recv_fds(wire, 1 << 20, 2)
        if not data:
            os._exit(0)
        message = json.loads(data)
        if "records" in message:
            self._records = message["records"]
        elif "gone" in message:
            for each in self._sockets.pop(message["gone"], ()):
                self._close(each)
        else:
            networks = message["networks"]
            self._sockets[message["name"]] = [udp, tcp] = [socket.socket(fileno=handle) for handle in handles]
            self._selector.register(udp, selectors.EVENT_READ, lambda ready: self._datagram(ready, networks))
            self._selector.register(tcp, selectors.EVENT_READ, lambda ready: self._accept(ready, networks))
        wire.send(b"ok")

    def _datagram(self, udp: socket.socket, networks: list[str]) -> None:
        query, client = udp.recvfrom(4096)
        answer = self._answer(query, networks)
        if answer:
            udp.sendto(answer, client)

    def _accept(self, tcp: socket.socket, networks: list[str]) -> None:
        stream, _ = tcp.accept()
        self._selector.register(stream, selectors.EVENT_READ, lambda ready: self._stream(ready, networks))

    def _stream(self, stream: socket.socket, networks: list[str]) -> None:
        # A query fits one segment. No client here sends it in pieces.
        data = stream.recv(4096)
        answer = self._answer(data[2:], networks) if len(data) > 2 else None
        if answer:
            stream.sendall(struct.pack("!H", len(answer)) + answer)
        else:
            self._close(stream)

    def _close(self, each: socket.socket) -> None:
        self._selector.unregister(each)
        each.close()

    def _answer(self, query: bytes, networks: list[str]) -> bytes | None:
        from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord

        try:
            request = DNSRecord.parse(query)
        except DNSError:
            return None
        reply = request.reply()
        question = request.q
        name = str(question.qname).rstrip(".").lower()
        known = [self._records.get(network, {}) for network in networks]
        addresses = next((records[name] for records in known if name in records), None)
        if addresses is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.qtype == QTYPE.A:
            for address in random.sample(addresses, len(addresses)):
                reply.add_answer(RR(question.qname, QTYPE.A, rdata=A(address), ttl=_TTL))
        return bytes(reply.pack())
