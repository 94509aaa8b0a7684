"""One mutant in a process of its own: the fault is planted, and its check or its sequence is observed.

    python -m tests.lab.mutants.one ORDER      ORDER and the line that is printed are JSON (Order, Seen)

A plane is imported only once, so a process has one mutant. Each look is at a new lab. A difference that is seen only
once may be the machine's: one that is loaded loses packets. So a mutant is killed if two looks differ. In a guest under
the instruction clock nothing depends on the machine, and one look is enough.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.lab.mutants.planted import plant
from tests.lab.mutants.table import EXPLORED, Mutant

_SILENCE = 2.0
"""Seconds until a check takes silence for an answer. Here it comes soon: many faults are silence."""
_LOOKS = {True: 3, False: 8}
"""How often a plane is looked at that chooses in turn, and one that chooses at random and may miss its fault."""
_DIFFERING = {True: 1, False: 2}[platform.node() == "guest"]
"""How many looks must differ. bench/kernels/init.c gives a guest its name."""
_NEIGHBOURS = Path("/proc/net/stat/arp_cache")
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
    names = order.checks or [order.sequence]
    found = {name: seen for name in names if (seen := _seen(order, name))}
    print(msgspec.json.encode(Seen(found)).decode())


def _seen(order: Order, name: str) -> str:
    """Return what differs, or "" if nothing does."""
    from dataplanes import catalog

    (selection,) = catalog.select(order.plane)
    in_turn, found = catalog.in_turn(selection), list[str]()
    looks = _LOOKS[in_turn]
    for number in range(looks):
        if seen := _undisturbed(order, name):
            found.append(seen)
        if len(found) == _DIFFERING:
            return found[0]
        if len(found) + looks - number - 1 < _DIFFERING or (in_turn and not found):
            return ""
    return ""


def _undisturbed(order: Order, name: str) -> str:
    """Look until nothing has disturbed the look.

    All namespaces of a machine share one table of neighbours. While it is full, packets are lost everywhere
    (net/core/neighbour.c, neigh_alloc).
    """
    for _ in range(_PATIENCE):
        before = _overflows()
        seen = _played(order) if order.sequence else _observed(order, name)
        if not seen or before == _overflows():
            return seen
        time.sleep(3)
    raise SystemExit("the machine's table of neighbours is full (net.ipv4.neigh.default.gc_thresh3): try again later")


def _overflows() -> int:
    header, *processors = _NEIGHBOURS.read_text().splitlines()
    column = header.split().index("table_fulls")
    return sum(int(each.split()[column], 16) for each in processors)


def _observed(order: Order, name: str) -> str:
    from bench.inside import trial
    from dataplanes import catalog
    from scenarios import checks, topology
    from scenarios.checks import world
    from scenarios.journal import Journal

    world.TIMEOUT = _SILENCE
    check, (selection,) = checks.CHECKS[name], catalog.select(order.plane)
    with Journal() as journal, trial.build(topology.load(check.scenario), selection, journal) as lab:
        (cell,) = checks.observe([check], world.World(lab), order.plane)
    return "" if cell.outcome == "pass" else f"{cell.outcome}: {cell.detail}"


def _played(order: Order) -> str:
    from bench.inside.explore import searching
    from dataplanes import catalog
    from scenarios.explore import sockets
    from scenarios.explore.operations import Operations

    sockets._COMES, sockets._COMES_NOT = _SILENCE, 0.5
    (selection,) = catalog.select(order.plane)
    sequence = msgspec.json.decode((EXPLORED / f"{order.sequence}.json").read_bytes(), type=Operations)
    with searching(selection, idles=False) as search:
        last = search.replay(sequence)[-1]
    return "" if last.as_expected else f"{last.sentence} Expected: {last.expected}; seen: {last.seen}"


if __name__ == "__main__":
    main(sys.argv[1])
