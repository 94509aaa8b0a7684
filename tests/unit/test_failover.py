"""What is felt of a failure, by connections to servers of this test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import ClassVar

import pytest

from dataplanes.errors import Usage
from scenarios import failover


class _Misled(socket.socket):
    """A socket that connects to where `full` listens, whose backlog is full: no SYN is answered."""

    full: ClassVar[socket.socket]

    def connect_ex(self, address: object) -> int:
        return super().connect_ex(self.full.getsockname())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(failover, "_BEFORE", 0.05)
    monkeypatch.setattr(failover, "_AFTER", 0.2)
    monkeypatch.setattr(failover, "_MOST", 0.6)
    monkeypatch.setattr(failover, "_SILENT", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as made:
        yield made


def test_a_server_that_stays_is_not_felt(server: socket.socket) -> None:
    found = failover.felt(socket.socket, server.getsockname(), lambda: None)
    assert (found.last, found.failed, found.ended) == (None, 0, True)
    assert found.told() == f"not felt: all of {found.begun} connections came about"


def test_one_that_ends_is_felt_as_long_as_anybody_looks(server: socket.socket) -> None:
    found = failover.felt(socket.socket, server.getsockname(), server.close)
    assert found.last is not None
    assert not found.ended
    assert 0.4 < found.last < 1
    assert found.told().startswith("still felt after")


def test_silence_is_felt_and_ends_when_an_answer_comes(server: socket.socket) -> None:
    """A backend that is gone, of two that are asked in turn, until it is taken out."""
    asked = 0

    def in_turn() -> socket.socket:
        nonlocal asked
        asked += 1
        return _Misled() if 4 <= asked < 10 and asked % 2 else socket.socket()  # three come before the failure

    _Misled.full = socket.create_server(("127.0.0.1", 0), backlog=0)
    with _Misled.full, socket.create_connection(_Misled.full.getsockname()):
        found = failover.felt(in_turn, server.getsockname(), lambda: None)
    assert (found.failed, found.ended) == (3, True)
    assert found.last is not None
    assert 0 < found.last < 0.3


@pytest.mark.parametrize("words", [(), ("container",), ("container", "my-web.1", "more")])
def test_without_a_lab_or_words_it_says_what_is_missing(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_LAB", raising=False)
    with pytest.raises(Usage, match=r"in bench lab: python -m scenarios\.failover container"):
        failover.run(words)
