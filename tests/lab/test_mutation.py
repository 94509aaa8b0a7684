"""The checks can fail. Each plane is broken in eight or more ways, and each time the right check fails.

First a plane is told something else than the lab's state. Then a plane that knows the true state loses something it
needs. One lab serves all mutants of a plane: after each of them what the kernel holds is what it was before.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from dataplanes import catalog
from scenarios import checks, expectations
from tests.lab.mutants import Damage
from tests.lab.mutants.bed import Bed
from tests.lab.mutants.lost import LOST
from tests.lab.mutants.told import TOLD, WITHOUT_TURNS, Mutant
from tests.lab.test_seed import SERVING

EVERY = [*SERVING, "ipvs-lb-dsr", "kube-iptables", "kube-nftables", "kube-nftables@one-map", "moby-nftables"]
"""The planes that are told something else. Others, of which there are fewer mutants, only lose something."""
AT_ONCE = ("nft-lb", "nft-bridge", "kube-iptables", "ebpf-socket", "ebpf-tc")
"""The planes whose mutants are part of a whole tox, one of each mechanism that needs no guest."""


def _told(breaks: Callable[[Mutant], None], bed: Bed, undo: ExitStack) -> None:
    breaks(bed.mutant)
    if bed.mutant.absent:
        bed.breaks = breaks
        bed.lab.reinstall()
    else:
        bed.mutant.apply(bed.lab.services())


def mutants(plane: str) -> dict[str, tuple[str, Damage]]:
    """Return the mutants of a plane by their names: the check that must fail, and the damage.

    A check that does not hold on the plane as it is tells nothing of a mutant. kube-proxy and moby keep connections to
    a removed service, so there no check is about one that stays.
    """
    (selection,) = catalog.select(plane)
    turns = WITHOUT_TURNS if not catalog.in_turn(selection) else ("", "")
    told = {name: (check.replace(*turns), partial(_told, breaks)) for name, (check, breaks) in TOLD.items()}
    lost = {name: (check.replace(*turns), planes[plane]) for name, (check, planes) in LOST.items() if plane in planes}
    found: dict[str, tuple[str, Damage]] = (told if plane in EVERY else {}) | lost
    release = platform.release()
    return {
        name: each
        for name, each in found.items()
        if expectations.expected(selection, each[0], release).expected == "pass"
    }


def _marks(plane: str, check: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a mutant. Those of other planes than `AT_ONCE` are observed by `tox -e mutants`."""
    found = [pytest.mark.machine] if checks.CHECKS[check].machine else []
    return found if plane in AT_ONCE else [*found, pytest.mark.mutants]


_PLANES = dict.fromkeys([*EVERY, *(plane for _, planes in LOST.values() for plane in planes)])
_MUTANTS = [
    pytest.param(plane, name, marks=_marks(plane, check))
    for plane in _PLANES
    for name, (check, _) in mutants(plane).items()
]
"""In this order, so that a plane's mutants follow one another."""


@pytest.mark.parametrize(("plane", "mutant"), _MUTANTS)
def test_the_right_check_fails(beds: Callable[[str], Bed], plane: str, mutant: str) -> None:
    bed, (check, damage) = beds(plane), mutants(plane)[mutant]
    assert bed.killed(check, damage), f"{check} holds"
