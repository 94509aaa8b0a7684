"""The kernel's table of neighbours, which all namespaces share. What is seen while it is full counts for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scenarios import losses
from scenarios.stopwatch import Steadiness
from tests.lab.conftest import View, running

_LIMIT = Path("/proc/sys") / losses.LIMIT.replace(".", "/")


@contextmanager
def limited(entries: int) -> Iterator[None]:
    before = _LIMIT.read_text("ascii")
    _LIMIT.write_text(str(entries), "ascii")
    try:
        yield
    finally:
        _LIMIT.write_text(before, "ascii")


@pytest.mark.machine
def test_a_machine_whose_table_was_full_is_not_to_be_believed() -> None:
    assert int(_LIMIT.read_text("ascii")) >= 65536, "a guest has room for thousands of containers"
    with running("direct") as lab, View(lab).datagram() as handle:
        steadiness = Steadiness()
        handle.sendto(b"w", ("10.0.0.100", 80))  # nobody has it, so it needs an entry of its own
        assert steadiness.broken() is None
        # Entries that were not updated for five seconds make room (net/core/neighbour.c, neigh_forced_gc).
        with limited(1):
            for last in range(101, 200):
                handle.sendto(b"w", (f"10.0.0.{last}", 80))
        assert "table of neighbours was full" in str(steadiness.broken())
