"""One mutant in a process of its own: the fault is planted, and its check or its sequence is observed.

    python -m tests.lab.mutants.one ORDER      ORDER and the line that is printed are JSON (Order, Seen)

A plane is imported only once, so a process has one mutant. A difference that is seen only once may be the machine's:
one that is loaded loses packets. So a mutant is killed if two looks differ. In a guest under the instruction clock
nothing depends on the machine, and one look is enough.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from scenarios.stopwatch import Steadiness
from tests.lab.mutants.planted import plant
from tests.lab.mutants.table import EXPLORED, Mutant

if TYPE_CHECKING:
    from scenarios.checks.world import World

_SILENCE = 2.0
"""Seconds until a check takes silence for an answer. Here it comes soon: many faults are silence."""
_LOOKS = {True: 3, False: 8}
"""How often a plane is looked at that chooses in turn, and one that chooses at random and may miss its fault."""
_DIFFERING = {True: 1, False: 2}[platform.node() == "guest"]
"""How many looks must differ. bench/kernels/init.c gives a guest its name."""
_PATIENCE = 20


class Order(Struct, frozen=True):
    """A plane, its fault or none, and the checks to observe, or the sequence to play."""

    plane: str
    checks: list[str]
    mutant: Mutant | None = None
    sequence: str = ""


class Seen(Struct, frozen=True):
    """What was seen by each check that differs from what is expected; none if everything is as expected."""

    differences: dict[str, str]


def main(text: str) -> None:
    """Carry out an order, and print what was seen."""
    order = msgspec.json.decode(text, type=Order)
    if order.mutant:
        plant(order.mutant)
    with closing(_Labs(order.plane)) as labs:
        looks = {name: partial(labs.observe, name) for name in order.checks}
        if order.sequence:
            looks[order.sequence] = partial(labs.play, order.sequence)
        found = {name: seen for name, look in looks.items() if (seen := _seen(look, labs.in_turn))}
    print(msgspec.json.encode(Seen(found)).decode())


def _seen(look: Callable[[], str], in_turn: bool) -> str:
    """Return what differs, or "" if nothing does."""
    found, most = list[str](), _LOOKS[in_turn]
    for left in range(most - 1, -1, -1):
        if seen := _undisturbed(look):
            found.append(seen)
        if len(found) == _DIFFERING:
            return found[0]
        if len(found) + left < _DIFFERING or (in_turn and not found):
            break
    return ""


def _undisturbed(look: Callable[[], str]) -> str:
    """Look until the machine is not at fault itself for what is seen."""
    for _ in range(_PATIENCE):
        machine = Steadiness(queues=True)
        seen = look()
        if not seen or not (broken := machine.broken()):
            return seen
        time.sleep(3)
    raise SystemExit(f"{broken}: try again later")


class _Labs:
    """Labs with the plane, one at a time. What is imported here must not be imported before the fault is planted."""

    def __init__(self, plane: str) -> None:
        from dataplanes import catalog

        (self._selection,) = catalog.select(plane)
        self.in_turn = catalog.in_turn(self._selection)
        self._stack = ExitStack()
        self._world: World | None = None
        self._scenario = ""

    def close(self) -> None:
        """Take the lab down."""
        self._stack.close()
        self._world = None

    def observe(self, name: str) -> str:
        """Observe a check, in the lab of the one before unless an error has left that in any state."""
        from scenarios import checks

        check = checks.CHECKS[name]
        if self._world is None or self._scenario != check.scenario:
            self._build(check.scenario)
        assert self._world
        (cell,) = checks.observe([check], self._world, self._selection.name)
        if cell.outcome == "error":
            self.close()
        return "" if cell.outcome == "pass" else f"{cell.outcome}: {cell.detail}"

    def _build(self, scenario: str) -> None:
        from bench.inside import trial
        from scenarios import topology
        from scenarios.checks import world
        from scenarios.journal import Journal

        self.close()
        world.TIMEOUT = _SILENCE
        journal = self._stack.enter_context(Journal())
        lab = self._stack.enter_context(trial.build(topology.load(scenario), self._selection, journal))
        self._world, self._scenario = world.World(lab), scenario

    def play(self, name: str) -> str:
        """Play a sequence of the exploration in a lab of its own."""
        from bench.inside.explore import searching
        from scenarios.explore import sockets
        from scenarios.explore.operations import Operations

        sockets._COMES, sockets._COMES_NOT = _SILENCE, 0.5
        sequence = msgspec.json.decode((EXPLORED / f"{name}.json").read_bytes(), type=Operations)
        with searching(self._selection, idles=False) as search:
            last = search.replay(sequence)[-1]
        return "" if last.as_expected else f"{last.sentence} Expected: {last.expected}; seen: {last.seen}"


if __name__ == "__main__":
    main(sys.argv[1])
