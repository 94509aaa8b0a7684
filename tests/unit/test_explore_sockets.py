"""What an exploration waits for at its sockets."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from dataplanes.errors import BenchError
from scenarios.explore.operations import REFUSED, RESET, SILENCE, Sight
from scenarios.explore.sockets import Ends, Sockets, _bound, _sight, unacknowledged


@pytest.fixture
def flow() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        backend = listener.accept()[0]
    with client, backend:
        yield Ends(False, client, "127.0.0.1", client.getsockname()[1], backend=backend)


def test_an_acknowledgement_that_the_kernel_delays_is_waited_for(flow: Ends) -> None:
    assert flow.backend
    flow.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # it delays them from now on (tcp(7))
    flow.backend.send(b"1")
    assert unacknowledged(flow.backend) == 1
    held = Sockets(cast(Any, None), [])
    held._flows[1] = flow
    held.acknowledge()
    assert unacknowledged(flow.backend) == 0


def test_what_nobody_acknowledges_is_given_up(flow: Ends) -> None:
    flow.client.setblocking(False)
    with suppress(BlockingIOError):  # until no window is left
        while flow.client.send(bytes(65536)):
            pass
    held = Sockets(cast(Any, None), [])
    held._flows[1] = flow
    held.acknowledge()
    assert unacknowledged(flow.client) > 0
    flow.client.close()
    held.acknowledge()


def test_a_source_port_that_is_in_use_is_passed_over(flow: Ends) -> None:
    with socket.socket() as made:
        assert _bound(made, [flow.source, 0]) == 0
    with socket.socket() as made, pytest.raises(BenchError, match="no source port is free"):
        _bound(made, [flow.source])


@pytest.mark.parametrize(
    ("number", "seen"),
    [
        (errno.ECONNREFUSED, REFUSED),
        (errno.EPERM, REFUSED),
        (errno.ECONNRESET, RESET),
        (errno.EPIPE, RESET),
        (errno.ENOTCONN, RESET),
        (errno.ETIMEDOUT, SILENCE),
        (errno.EHOSTUNREACH, SILENCE),
        (errno.ENETUNREACH, SILENCE),
    ],
    ids=errno.errorcode.get,
)
def test_an_error_of_the_network_is_what_is_seen(number: int, seen: Sight) -> None:
    assert _sight(OSError(number, os.strerror(number))) == seen


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.EINVAL], ids=errno.errorcode.get)
def test_an_error_that_says_nothing_of_the_network_is_not_taken_for_silence(number: int) -> None:
    with pytest.raises(BenchError, match=os.strerror(number)):
        _sight(OSError(number, os.strerror(number)))


def test_a_time_out_of_python_is_silence() -> None:
    assert _sight(TimeoutError("timed out")) == SILENCE
