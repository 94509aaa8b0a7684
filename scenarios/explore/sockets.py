"""The sockets of a sequence: servers in the backends' containers, and both ends of every flow, all in this process."""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import count, cycle, islice

from msgspec import Struct, field

from dataplanes.errors import BenchError
from scenarios.checks.world import retransmits
from scenarios.explore.operations import ARRIVED, DONE, ENDED, REFUSED, RESET, SILENCE, Sight
from scenarios.testbed import Testbed

PORT = 7
"""The port at which every backend serves TCP and UDP."""
_FIRST_SOURCE, _SOURCES = 20_000, 40_000
_COMES, _COMES_NOT = 3.0, 1.0
"""Seconds until what should come is taken for lost, and until what need not come is.

What works takes milliseconds, and on a busy machine at most a second.
"""
_CALL = 0
"""The number of the flow of a connection that is closed at once."""
_PACE = 2.0
"""Seconds from a lost datagram to the next operation.

IPVS forgets the flow of a removed backend at the next tick (see scenarios.checks.change).
"""
_ACKNOWLEDGED, _LOOK = 0.5, 0.002
"""Seconds until what is acknowledged at all has been, and between two looks: an acknowledgement may wait for 40 ms."""
_AT_ONCE = struct.pack("=ii", 1, 0)  # SO_LINGER: a close is a reset
_NOBODY = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})
"""The errors by which the kernel says that nobody has answered, or that nobody can be reached."""


def container_of(name: str) -> str:
    """Return the container of a client or a backend: the only task of the service of its name."""
    return f"{name}.1"


class Ends(Struct):
    """The two ends of a flow. A backend has one UDP socket for all flows, and answers the address that asked last."""

    udp: bool
    client: socket.socket
    address: str  # the one that it was opened to
    source: int  # the client's port
    connected: bool = False
    name: str = ""  # the backend's, once it is known
    backend: socket.socket | None = None
    asker: tuple[str, int] | None = None
    closed: set[str] = field(default_factory=set)  # the ends that have closed their half

    def of(self, end: str) -> socket.socket:
        """Return the socket of one end."""
        found = self.client if end == "client" else self.backend
        assert found
        return found

    def close(self) -> None:
        """Close both ends at once. Idempotent."""
        if self.udp:
            self.client.close()
            return
        for each in filter(None, (self.client, self.backend)):
            _reset(each)


class Sockets:
    """The servers of the backends, and the flows to them."""

    def __init__(self, testbed: Testbed, backends: Collection[str]) -> None:
        """Have servers listen at their containers' own addresses."""
        self._testbed = testbed
        self._listeners: dict[str, socket.socket] = {}
        self._datagrams: dict[str, socket.socket] = {}
        self._flows: dict[int, Ends] = {}
        self._sources = cycle(range(_FIRST_SOURCE, _FIRST_SOURCE + _SOURCES))
        self._tokens = count(1)
        for name in backends:
            self.listen(name)

    # -- servers ------------------------------------------------------------------------------------------------

    def listen(self, name: str) -> None:
        """Have a backend's servers listen, if they do not."""
        if name in self._listeners:
            return
        for kind, held in ((socket.SOCK_STREAM, self._listeners), (socket.SOCK_DGRAM, self._datagrams)):
            made = held[name] = self._testbed.socket(container_of(name), kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            address = self._testbed.containers[container_of(name)].endpoints[0].address
            made.bind((address, PORT))
            if kind == socket.SOCK_STREAM:
                made.listen(16)
            made.setblocking(False)

    def stop(self, name: str) -> None:
        """Have a backend's servers stop listening. Connections that were accepted go on."""
        for held in (self._listeners, self._datagrams):
            held.pop(name).close()

    def lose(self, name: str) -> None:
        """Close every socket of a container that is gone. An open socket would keep its namespace alive."""
        if name in self._listeners:
            self.stop(name)
        for flow in self._flows.values():
            if flow.name == name and flow.backend and not flow.udp:
                flow.backend.close()

    def lose_client(self, flow: int) -> None:
        """Close the client's end of a flow whose container is gone."""
        self._flows[flow].client.close()

    def acknowledge(self) -> None:
        """Wait until what was sent by connections is acknowledged, unless nobody is there to do it.

        Otherwise a busy machine's kernel may send it again at any time, as between a flush and what restores the rules.
        Without a translation the other end answers it with a reset.
        """
        ends = [end for flow in self._flows.values() if not flow.udp for end in (flow.client, flow.backend) if end]
        deadline = time.monotonic() + _ACKNOWLEDGED
        while any(map(unacknowledged, ends)) and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def clear(self) -> None:
        """Close every flow, and drop what the servers have not read."""
        for flow in self._flows.values():
            flow.close()
        self._flows.clear()
        for server in (*self._listeners.values(), *self._datagrams.values()):
            _drop(server)

    def close(self) -> None:
        """Close everything."""
        self.clear()
        for name in list(self._listeners):
            self.stop(name)

    # -- flows --------------------------------------------------------------------------------------------------

    def connect(self, number: int, client: str, address: str, *, again: bool, patient: bool) -> Sight:
        """Open a TCP connection, and accept it at the backend that it has reached."""
        for listener in self._listeners.values():
            _drop(listener)
        flow = self._open(number, client, address, udp=False, again=again)
        flow.client.settimeout(_wait(patient))
        try:
            flow.client.connect((address, PORT))
        except OSError as error:
            flow.close()
            return _sight(error)
        late = retransmits(flow.client) > 0
        ready = _readable(self._listeners.values(), _COMES)
        if not ready:
            flow.close()
            return SILENCE
        flow.name = next(name for name, each in self._listeners.items() if each is ready[0])
        flow.backend = ready[0].accept()[0]
        for each in (flow.client, flow.backend):
            each.setblocking(False)
        return Sight("late" if late else "answered", flow.name)

    def call(self, client: str, address: str, *, patient: bool) -> Sight:
        """Open a TCP connection, and close it, the backend first, if it has reached one."""
        seen = self.connect(_CALL, client, address, again=False, patient=patient)
        if seen.by and (end := self.finish(_CALL, "backend", patient=True)) != ENDED:
            return end
        return seen

    def ask(self, number: int, client: str, address: str, *, connected: bool, again: bool, patient: bool) -> Sight:
        """Open a UDP socket, and ask for the first time."""
        flow = self._open(number, client, address, udp=True, again=again)
        flow.client.setblocking(False)
        flow.connected = connected
        return self._ask_again(flow, patient)

    def _ask_again(self, flow: Ends, patient: bool) -> Sight:
        """Send a datagram, have the backend that it reaches answer, and receive the answer."""
        begun = time.monotonic()
        try:
            seen = self._asked(flow, _wait(patient))
        except OSError as error:
            seen = _sight(error)
        if not seen.by:
            time.sleep(max(0.0, begun + _PACE - time.monotonic()))
        return seen

    def _asked(self, flow: Ends, wait: float) -> Sight:
        token, there = self._token(), (flow.address, PORT)
        flow.client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # takes the error about an earlier datagram
        if flow.connected and not flow.name:
            flow.client.connect(there)
        if flow.connected:
            flow.client.send(token)
        else:
            flow.client.sendto(token, there)
        while ready := _readable([*self._datagrams.values(), flow.client], wait):
            name = next((name for name, each in self._datagrams.items() if each is ready[0]), "")
            data, source = ready[0].recvfrom(64)  # the client's raises an error: nobody has answered yet
            if data == token and name:
                flow.name, flow.asker = name, source
                ready[0].sendto(token, source)
                came = self._heard(flow, token, _COMES)
                return came if came == SILENCE else Sight("answered" if came == ARRIVED else "astray", name)
        return SILENCE

    def _answer_again(self, flow: Ends, patient: bool) -> Sight:
        """Have the backend of a UDP flow send another datagram to the address that asked last."""
        token = self._token()
        assert flow.asker
        try:
            self._datagrams[flow.name].sendto(token, flow.asker)
            seen = self._heard(flow, token, _wait(patient))
        except OSError as error:
            return _sight(error)
        return Sight("astray", flow.name) if seen.kind == "astray" else seen

    def _heard(self, flow: Ends, token: bytes, wait: float) -> Sight:
        """Receive a datagram at the client: arrived, astray or silence. Raises the error that the client is told."""
        while _readable([flow.client], wait):
            data, source = flow.client.recvfrom(64)
            if data == token:
                return ARRIVED if source == (flow.address, PORT) else Sight("astray")
        return SILENCE

    def speak(self, number: int, by: str, *, patient: bool) -> Sight:
        """Send from one end of a flow, and look at both."""
        flow, token = self._flows[number], self._token()
        if flow.udp:
            return self._ask_again(flow, patient) if by == "client" else self._answer_again(flow, patient)
        try:
            flow.of(by).send(token)
        except OSError as error:
            return _sight(error)
        return _looked(flow, by, token, ARRIVED, _wait(patient))

    def half_close(self, number: int, by: str, *, patient: bool) -> Sight:
        """Close one half of a connection, and look at both ends."""
        flow = self._flows[number]
        try:
            flow.of(by).shutdown(socket.SHUT_WR)
        except OSError as error:
            return _sight(error)
        flow.closed.add(by)
        return _looked(flow, by, b"", ENDED, _wait(patient))

    def finish(self, number: int, by: str, *, patient: bool) -> Sight:
        """Close both ends of a flow, one after the other, unless the other one has closed its half before."""
        flow = self._flows[number]
        if flow.udp:
            flow.close()
            return DONE
        seen = self.half_close(number, by, patient=patient)
        other = "backend" if by == "client" else "client"
        if seen == ENDED and other not in flow.closed:
            seen = self.half_close(number, other, patient=patient)
        if seen == ENDED:
            for end in ("client", "backend"):
                flow.of(end).close()
        flow.close()
        return seen

    def abort(self, number: int, by: str, *, patient: bool) -> Sight:
        """End a connection by a reset, and look whether the other end is told."""
        flow = self._flows[number]
        other = flow.of("backend" if by == "client" else "client")
        _reset(flow.of(by))
        seen = SILENCE
        if _readable([other], _wait(patient)):
            try:
                seen = ENDED if not other.recv(64) else Sight("stray", flow.name)
            except OSError as error:
                seen = _sight(error)
        flow.close()
        return seen

    def _open(self, number: int, client: str, address: str, *, udp: bool, again: bool) -> Ends:
        before = self._flows.get(number)
        if before:
            before.close()
        made = self._testbed.socket(container_of(client), socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        source = _bound(made, [before.source] if before and again else islice(self._sources, _SOURCES))
        flow = self._flows[number] = Ends(udp, made, address, source)
        return flow

    def _token(self) -> bytes:
        return b"%d" % next(self._tokens)


def _bound(made: socket.socket, sources: Iterable[int]) -> int:
    """Bind a socket to the first of these ports that is free. After tens of thousands of flows some are not."""
    for source in sources:
        try:
            made.bind(("", source))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return source
    raise BenchError("no source port is free", where="a client of the exploration", fix="explore for a shorter time")


def _looked(flow: Ends, by: str, data: bytes, comes: Sight, wait: float) -> Sight:
    """Return what is seen when data, or the end, should come to one end and the other end may be told an error."""
    own, other = flow.of(by), flow.of("backend" if by == "client" else "client")
    poll = select.poll()
    if other.fileno() >= 0:
        poll.register(other, select.POLLIN)
    poll.register(own, 0)
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        found = dict(poll.poll(left * 1e3))
        if other.fileno() in found:
            try:
                got = other.recv(64)
            except OSError as error:
                return _sight(error)
            return comes if got == data else ENDED if not got else Sight("stray", flow.name)
        if found.get(own.fileno(), 0) & select.POLLERR:
            return RESET
        if found:  # both halves are closed, which poll() reports again and again
            poll.unregister(own)
    return SILENCE


def _readable(sockets: Iterable[socket.socket], wait: float) -> list[socket.socket]:
    """Wait until one of some sockets has data, a connection or an error. Return those that have."""
    poll, found = select.poll(), {each.fileno(): each for each in sockets if each.fileno() >= 0}
    for handle in found:
        poll.register(handle, select.POLLIN)
    return [found[handle] for handle, _ in poll.poll(wait * 1e3)]


def _drop(server: socket.socket) -> None:
    """Drop the connections or datagrams that wait at a server."""
    with suppress(BlockingIOError):
        while True:
            if server.type == socket.SOCK_STREAM:
                server.accept()[0].close()
            else:
                server.recv(64)


def unacknowledged(connection: socket.socket) -> int:
    """Return the bytes that a connection has sent, or has yet to send, and that are not acknowledged (tcp(7))."""
    if connection.fileno() < 0:
        return 0
    return int(struct.unpack("=i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def _reset(connection: socket.socket) -> None:
    """Close a connection by a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    connection.close()


def _sight(error: OSError) -> Sight:
    """Return an error of the network as what is seen. The sender's own path may drop a packet: not permitted.

    Raises BenchError for an error that says nothing of the network, as that an address is in use.
    """
    if isinstance(error, ConnectionRefusedError | PermissionError):
        return REFUSED
    if isinstance(error, ConnectionError) or error.errno == errno.ENOTCONN:  # this end was told of the reset before
        return RESET
    if isinstance(error, TimeoutError) or error.errno in _NOBODY:
        return SILENCE
    raise BenchError("a socket cannot be used", where="an end of a flow", why=str(error)) from error


def _wait(patient: bool) -> float:
    return _COMES if patient else _COMES_NOT
