"""The checks can fail. Each plane is broken in eight or more ways, and each time the right check fails.

First a plane is told something else than the lab's state. Then a plane that knows the true state loses something it
needs. One lab serves all mutants of a plane: after each of them what the kernel holds is what it was before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from tests.lab.mutants import Damage
from tests.lab.mutants.bed import Bed
from tests.lab.mutants.lost import LOST
from tests.lab.mutants.told import TOLD, WITHOUT_TURNS, Mutant
from tests.lab.test_seed import SERVING

EVERY = [*SERVING, "ipvs-lb-dsr", "kube-iptables", "kube-nftables", "kube-nftables@one-map", "moby-nftables"]
"""The planes that are told something else. Others, of which there are fewer mutants, only lose something."""


def _told(breaks: Callable[[Mutant], None], bed: Bed, undo: ExitStack) -> None:
    breaks(bed.mutant)
    if bed.mutant.absent:
        bed.breaks = breaks
        bed.lab.reinstall()
    else:
        bed.mutant.apply(bed.lab.services())


def mutants(plane: str) -> dict[str, tuple[str, Damage]]:
    """Return the mutants of a plane by their names: the check that must fail, and the damage."""
    found = {name: (check, partial(_told, breaks)) for name, (check, breaks) in TOLD.items() if plane in EVERY}
    return found | {name: (check, planes[plane]) for name, (check, planes) in LOST.items() if plane in planes}


_PLANES = dict.fromkeys([*EVERY, *(plane for _, planes in LOST.values() for plane in planes)])
_MUTANTS = [(plane, name) for plane in _PLANES for name in mutants(plane)]
"""In this order, so that a plane's mutants follow one another."""


@pytest.mark.parametrize(("plane", "mutant"), _MUTANTS)
def test_the_right_check_fails(beds: Callable[[str], Bed], plane: str, mutant: str) -> None:
    bed, (check, damage) = beds(plane), mutants(plane)[mutant]
    if not bed.lab.in_turn:
        check = check.replace(*WITHOUT_TURNS)
    assert bed.killed(check, damage), f"{check} holds"
