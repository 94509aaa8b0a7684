"""The connection table of the eBPF planes at the veth: one entry per connection, a capacity, a rule when it is full."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest
from msgspec.structs import replace

from dataplanes.ebpf import Ebpf
from dataplanes.ebpf_connections import Connection
from dataplanes.ebpf_services import ServiceTable
from dataplanes.placed import PlacedPlane
from scenarios.lab import Lab
from tests.lab.conftest import BUSYBOX_VIP, CLIENT, VIP, View, running

SILENT = 7100
"""Listen on a port with a server that accepts connections and sends nothing."""
CLOSED = 7101


def entries(lab: Lab) -> list[Connection]:
    """Return the entries of the table on the client's node."""
    mechanism = cast(Ebpf, cast(PlacedPlane, lab.plane)._mechanism)
    table = mechanism._tables["worker2", "my-network"]
    assert isinstance(table, ServiceTable)
    assert table.connections is not None
    return list(table.connections)


def refused(lab: Lab) -> int:
    assert lab.plane
    return sum(each.objects for each in lab.plane.footprint() if each.kind == "connections refused")


def states(lab: Lab) -> Counter[str]:
    return Counter(each.state if each.answered else "unanswered" for each in entries(lab))


PLANES = ("ebpf-tc", "ebpf-redirect")


@pytest.fixture(scope="module", params=PLANES)
def roomy(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with running(request.param) as lab:
        yield lab


@pytest.fixture(params=PLANES)
def narrow(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with running(f"{request.param}@connections=4") as lab:
        yield lab


def asks(handle: socket.socket) -> str:
    """Return the backend that answers."""
    handle.sendall(b"w")
    return handle.recv(256).decode().split()[0]


def end(handle: socket.socket) -> None:
    """Close both sides, the client first."""
    handle.shutdown(socket.SHUT_WR)
    while handle.recv(256):
        pass
    handle.close()


def is_refused(handle: socket.socket, address: tuple[str, int]) -> bool:
    """Return True if a connection or datagram is refused. Otherwise it is lost silently, or answered."""
    try:
        handle.connect(address)
        handle.send(b"w")
        handle.recv(256)
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        pass
    return False


def unanswered(lab: Lab, undo: ExitStack) -> socket.socket:
    """Start a flow to which the backend sends nothing."""
    for backend in ("my-web.1", "my-web.2", "my-web.3"):
        server = undo.enter_context(lab.socket(backend, socket.SOCK_DGRAM))
        server.bind(("", SILENT))
    handle = undo.enter_context(View(lab).datagram())
    handle.connect((VIP, SILENT))
    handle.send(b"?")
    return handle


def test_a_connection_is_one_entry_which_both_ends_keep(roomy: Lab) -> None:
    before = len(entries(roomy))
    with View(roomy).connect() as handle:
        asks(handle)
        (made,) = (each for each in entries(roomy)[before:] if each.client_port == _port(handle))
        assert (made.state, made.answered, socket.inet_ntoa(made.vip)) == ("ESTABLISHED", True, VIP)
        end(handle)
    assert len(entries(roomy)) == before + 1
    assert {each.state for each in entries(roomy) if each.client_port == made.client_port} == {"TIME_WAIT"}


def _port(handle: socket.socket) -> bytes:
    return struct.pack(">H", handle.getsockname()[1])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_what_is_refused_leaves_no_entry(roomy: Lab, kind: socket.SocketKind) -> None:
    before = len(entries(roomy))
    for _ in range(3):
        with roomy.socket(CLIENT, kind) as handle:
            handle.settimeout(5)
            handle.bind(("", 7199))
            assert is_refused(handle, (VIP, CLOSED))
    assert len(entries(roomy)) == before


def test_a_port_that_was_refused_is_served_at_once(roomy: Lab) -> None:
    """If one of three backends listens, a fixed port reaches it within three attempts (cilium/cilium#11742)."""
    seen = []
    with roomy.socket("my-web.2", socket.SOCK_STREAM) as server:
        server.bind(("", 7102))
        server.listen(4)
        for _ in range(3):
            with roomy.socket(CLIENT, socket.SOCK_STREAM) as handle:
                handle.settimeout(5)
                handle.bind(("", 7198))
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                seen.append(handle.connect_ex((VIP, 7102)))
    assert Counter(bool(each) for each in seen) == {True: 2, False: 1}


@pytest.mark.parametrize("plane", PLANES)
def test_the_knob_is_the_number_of_connections(plane: str) -> None:
    with running(f"{plane}@connections=40") as lab, ExitStack() as undo:
        view = View(lab)
        held = [undo.enter_context(view.connect()) for _ in range(40)]
        assert {asks(each) for each in held} == {"1", "2", "3"}
        assert (states(lab), refused(lab)) == ({"ESTABLISHED": 40}, 0)
        for number in range(1, 4):
            with pytest.raises(ConnectionRefusedError):
                view.connect()
            assert refused(lab) == number
        assert [asks(each) for each in held]
        end(held.pop())
        with view.connect() as one_more:
            asks(one_more)
            assert states(lab) == {"ESTABLISHED": 40}


def test_a_full_table_refuses_datagrams_by_icmp(narrow: Lab) -> None:
    with ExitStack() as undo:
        view = View(narrow)
        for _ in range(4):
            asks(undo.enter_context(view.connect()))
        with view.datagram() as handle:
            assert is_refused(handle, (VIP, 80))


def test_what_is_finished_goes_first_then_what_nobody_answered_then_nothing(narrow: Lab) -> None:
    with ExitStack() as undo:
        view = View(narrow)
        first = undo.enter_context(view.connect())
        waiting = unanswered(narrow, undo)
        end(view.connect())
        last = undo.enter_context(view.connect())
        assert states(narrow) == {"ESTABLISHED": 2, "unanswered": 1, "TIME_WAIT": 1}
        undo.enter_context(view.connect())
        assert states(narrow) == {"ESTABLISHED": 3, "unanswered": 1}
        undo.enter_context(view.connect())
        assert states(narrow) == {"ESTABLISHED": 4}
        with pytest.raises(ConnectionRefusedError):
            view.connect()
        assert refused(narrow) == 1
        assert is_refused(waiting, (VIP, SILENT))
        assert asks(first)
        assert asks(last)


def test_a_removed_backends_places_are_free_again(narrow: Lab) -> None:
    with ExitStack() as undo:
        view = View(narrow)
        held = [undo.enter_context(view.connect()) for _ in range(4)]
        gone = [each for each in held if asks(each) == "1"]
        narrow.scale("my-web", 2)  # removes the third task
        third = [each for each in held if each not in gone]
        assert len(entries(narrow)) < 4
        while len(entries(narrow)) < 4:
            asks(undo.enter_context(view.connect()))
        assert refused(narrow) == 0
        assert third


def test_a_hairpins_port_unreachable_reaches_the_sender(roomy: Lab) -> None:
    with roomy.socket(CLIENT, socket.SOCK_DGRAM) as handle:
        handle.settimeout(5)
        handle.connect((BUSYBOX_VIP, CLOSED))
        handle.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            handle.recv(16)


def test_a_hairpins_answer_to_a_closed_port_is_complained_about(roomy: Lab) -> None:
    """The backend answers to a port that its other end has closed meanwhile."""
    with roomy.socket(CLIENT, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(("", 7103))
        with roomy.socket(CLIENT, socket.SOCK_DGRAM) as handle:
            handle.sendto(b"?", (BUSYBOX_VIP, 7103))
            _, seen_as = server.recvfrom(16)
        server.connect(seen_as)
        server.send(b"!")
        with pytest.raises(ConnectionRefusedError):
            server.recv(16)


def test_a_ping_of_4000_bytes_is_answered(roomy: Lab) -> None:
    with roomy.socket(CLIENT, socket.SOCK_RAW, socket.IPPROTO_ICMP) as handle:
        handle.settimeout(5)
        body = bytes(range(250)) * 16
        message = struct.pack(">BBHHH", 8, 0, 0, 0x4243, 1) + body
        handle.sendto(message[:2] + _checksum(message) + message[4:], (VIP, 0))
        answer, (source, _) = handle.recvfrom(8192)
    assert (source, answer[20], answer[24:26], answer[28:]) == (VIP, 0, b"\x42\x43", body)


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


@pytest.mark.parametrize("plane", PLANES)
def test_an_established_client_of_nobody_is_reset_when_it_speaks(plane: str) -> None:
    with running(plane) as lab:
        with View(lab).connect() as handle:
            asks(handle)
            assert lab.plane
            lab.plane.apply([replace(lab.service("my-web"), backends=())])
            handle.sendall(b"w")
            with pytest.raises(ConnectionResetError):
                handle.recv(256)
        with pytest.raises(ConnectionRefusedError):
            View(lab).connect()
