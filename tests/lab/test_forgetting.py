"""Connections that are forgotten while they idle are noticed, by each check that idles.

Here nobody idles: instead of waiting, the clock of the checks removes what the plane remembers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from dataplanes.kernel.conntrack import Conntrack
from scenarios import checks
from scenarios.checks import world
from scenarios.lab import Lab
from tests.lab.mutants.bed import SILENCE, Bed

FORGETFUL = ["nft-container", "nft-lb", "nft-overlay", "nft-bridge", "nft-host", "ebpf-tc", "ebpf-redirect"]
_IDLES = [name for name, each in checks.CHECKS.items() if each.idles and name != "idle.udp-400s"]  # it may begin anew


class _Losing:
    """The clock of checks that idle. Instead of waiting for the first time, it removes what the plane remembers."""

    def __init__(self, lose: Callable[[], None]) -> None:
        self._lose = lose
        self._skipped = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        if seconds and not self._skipped:
            self._lose()
        self._skipped += seconds


def _lose_connections(lab: Lab) -> None:
    """Do what time-outs do: remove everything that connection tracking and a plane's own table remember."""
    lab.reinstall()
    vips = {each.vip: () for each in lab.services()}
    for _, _, name in lab.namespaces():
        with Conntrack(name) as entries:
            entries.flush(vips)


def _observed(bed: Bed, lose: Callable[[], None]) -> dict[str, str]:
    """Observe all checks that idle, side by side. Return those that fail, and what they saw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "time", _Losing(lose))
        cells = list(checks.observe([checks.CHECKS[name] for name in _IDLES], world.World(bed.lab), bed.name))
    assert {cell.outcome for cell in cells} <= {"pass", "fail"}, cells
    return {cell.check: cell.detail for cell in cells if cell.outcome == "fail"}


@pytest.mark.parametrize("plane", FORGETFUL)
def test_connections_lost_while_they_idle_are_seen(
    beds: Callable[[str], Bed], plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check notices it even though a plane that chooses anew may choose the same backend."""
    bed = beds(plane)
    assert _observed(bed, lambda: None) == {}
    monkeypatch.setattr(world, "TIMEOUT", SILENCE)
    assert sorted(_observed(bed, lambda: _lose_connections(bed.lab))) == sorted(_IDLES)
    bed.mend()
