"""A session takes all of the output that its guest tells of, and lets the guest power off then."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from bench.kernels.base import Command
from bench.kernels.session import STREAMS, Session
from dataplanes.errors import BenchError

Ends = dict[str, socket.socket]


@pytest.fixture
def guest() -> Iterator[tuple[Session, Ends, list[bytes]]]:
    """A session, the guest's ends of its streams, and the events that the session is told."""
    pairs = {name: socket.socketpair() for name in STREAMS}
    told: list[bytes] = []
    with subprocess.Popen(("true",)) as process:
        session = Session(
            Command(("true",), {}, "/"), process, [ours for ours, _ in pairs.values()], told.append, b"", booted=True
        )
        yield session, {name: theirs for name, (_, theirs) in pairs.items()}, told
    for pair in pairs.values():
        for end in pair:
            end.close()


def ended(ends: Ends, control: bytes, **output: bytes) -> None:
    """Play a guest: what it has said on each port, and its end."""
    for name, data in {"control": control, **output}.items():
        ends[name].sendall(data)
    for end in ends.values():
        end.shutdown(socket.SHUT_WR)


def test_a_guest_is_let_go_when_all_output_has_arrived(
    guest: tuple[Session, Ends, list[bytes]], capfd: pytest.CaptureFixture[str]
) -> None:
    session, ends, told = guest
    ended(ends, b"R\nX3 4 2 4\n", out=b"long", err=b"no", events=b"1\n2\n")
    assert session.run() == 3
    assert (capfd.readouterr(), told) == (("long", "no"), [b"1", b"2"])
    ends["control"].setblocking(False)
    assert ends["control"].recv(100) == b""


@pytest.mark.parametrize("port", ["out", "err", "events"])
def test_output_that_the_guest_tells_of_and_that_does_not_arrive_is_an_error(
    guest: tuple[Session, Ends, list[bytes]], port: str
) -> None:
    session, ends, _ = guest
    told = " ".join("9" if name == port else "0" for name in ("out", "err", "events"))
    ended(ends, f"R\nX0 {told}\n".encode(), **{port: b"part"})
    with pytest.raises(BenchError, match=f"5 bytes of {port} are lost"):
        session.run()
