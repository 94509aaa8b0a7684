"""Each mutant of the table is killed by the check or the sequence that its row names, or survives for its reason.

Its check is observed as `bench matrix` does, on the machine's own kernel or in a guest. Checks that idle, that change a
limit of the whole machine, or that not every kernel can observe need a guest under the instruction clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest

from scenarios import checks
from tests.conftest import ROOT
from tests.lab.mutants import table
from tests.lab.mutants.one import Order, Seen

_MUTANTS = table.load()
_LONGEST = 3600
"""Seconds that a mutant may take by the clock of the kernel under test, where an idle one waits for 1000 s."""


def _machine(names: list[str]) -> list[pytest.MarkDecorator]:
    """Return the mark of a test that needs a guest whatever its plane: it is kept from the machine's own kernel.

    A check may have an obstacle here and none in a guest. Both must deal out the same tests, so nobody asks which.
    """
    found = [checks.CHECKS[name] for name in names if name]
    return [pytest.mark.machine] if any(each.idles or each.machine or each.obstacle for each in found) else []


def _rows() -> Iterator[object]:
    for mechanism, mutants in _MUTANTS.items():
        for each in mutants:
            yield pytest.param(mechanism, each.plane, each.name, marks=_machine([each.check]))


def _whole() -> Iterator[object]:
    """Yield each plane with the checks and the sequences of its mutants, apart by where they are observed."""
    for plane in dict.fromkeys(each.plane for mutants in _MUTANTS.values() for each in mutants):
        own = [each for mutants in _MUTANTS.values() for each in mutants if each.plane == plane]
        names = list(dict.fromkeys(each.check for each in own if each.check))
        apart = [name for name in names if _machine([name])]
        if here := [name for name in names if name not in apart]:
            yield pytest.param(plane, here, "")
        if apart:
            yield pytest.param(plane, apart, "", marks=pytest.mark.machine)
        for sequence in dict.fromkeys(each.sequence for each in own if each.sequence):
            yield pytest.param(plane, [], sequence)


@pytest.mark.mutants
@pytest.mark.parametrize(("plane", "names", "sequence"), list(_whole()))
def test_without_a_fault_nothing_differs(plane: str, names: list[str], sequence: str) -> None:
    assert _seen(Order(plane, names, None, sequence)) == {}


@pytest.mark.mutants
@pytest.mark.parametrize(("mechanism", "plane", "name"), list(_rows()))
def test_a_mutant_is_killed_or_survives_as_its_row_says(
    mechanism: str, plane: str, name: str, record_property: Callable[[str, object], None]
) -> None:
    (mutant,) = (each for each in _MUTANTS[mechanism] if each.name == name)
    found = _seen(Order(plane, [mutant.check] if mutant.check else [], mutant, mutant.sequence))
    seen = next(iter(found.values()), "")
    for fact, told in (("mechanism", mechanism), ("mutant", name), ("kernel", os.uname().release), ("seen", seen)):
        record_property(fact, told)
    if mutant.survives:
        assert not seen, f"it does not survive any more: {seen}"
    else:
        assert seen, f"{mutant.check or mutant.sequence} holds"


def _seen(order: Order) -> dict[str, str]:
    argv = (sys.executable, "-m", "tests.lab.mutants.one", msgspec.json.encode(order).decode())
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=_LONGEST, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Seen).differences
