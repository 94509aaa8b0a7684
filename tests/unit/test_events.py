"""The events that the kernel under test sends to the program's own process."""

from __future__ import annotations

import errno

import pytest

from bench.documents import Event
from dataplanes.errors import BenchError, KernelRefused, Usage
from dataplanes.kernel.netlink import NetlinkError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Usage("unknown plane", where="bench", why="a typo", fix="try nft-lb"), Usage),
        (NetlinkError(errno.ENOBUFS, 3, "worker1", ""), KernelRefused),
    ],
)
def test_an_error_is_the_same_on_both_sides(error: BenchError, kind: type[BenchError]) -> None:
    told = Event.of(error).error()
    assert type(told) is kind
    assert (str(told), told.exit_code) == (str(error), error.exit_code)
