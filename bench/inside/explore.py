"""The job of `bench explore` on the kernel under test: sequences are played on labs of one plane."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec

from bench.documents import Event, Job
from bench.documents.exploration import Exploring, Finding
from bench.inside import environment, trial
from dataplanes import catalog
from dataplanes.base import DataPlane
from dataplanes.errors import Unsupported
from dataplanes.selection import Selection
from scenarios import expectations, topology
from scenarios.checks import CHECKS
from scenarios.explore.course import SequenceStep, failed
from scenarios.explore.model import Model
from scenarios.explore.player import SCENARIO, Player
from scenarios.explore.search import Found, Played, Search
from scenarios.journal import Journal
from scenarios.lab import Lab

Make = Callable[[Lab, Journal], DataPlane]


def explore(job: Job, clock: str, tell: Callable[[Event], None]) -> int:
    """Play the sequences of the job. If none of them fails, play others at random until one does."""
    tell(Event("environment", data=environment.collect(clock)))
    (selection,) = job.selections
    order = msgspec.convert(job.exploring, Exploring)

    def told(steps: list[SequenceStep], again: int = 0, times: int = 0) -> None:
        found = Finding(selection.name, steps, again, times)
        tell(Event("finding", data=msgspec.to_builtins(found)))

    def found(sequence: Found) -> None:
        told(sequence.steps, sequence.again, sequence.times)

    def played(so_far: Played) -> None:
        tell(Event("explored", data={"dataplane": selection.name} | msgspec.structs.asdict(so_far)))

    with searching(selection, idles=clock == "instructions", found=found, played=played) as search:
        for sequence in order.sequences:
            steps = search.replay(sequence)
            told(steps, int(failed(steps)), 1)
            if failed(steps):
                return 0
        if order.operations != 0:
            search.run(order.seed, order.operations)
    return 0


def searching(
    selection: Selection,
    *,
    idles: bool,
    make: Make | None = None,
    found: Callable[[Found], object] = lambda found: None,
    played: Callable[[Played], object] = lambda played: None,
) -> Search:
    """Return a search on a plane. `make` makes the plane if it is not simply the selected one."""
    lacks = lacking(selection, platform.release())
    if "server.own-address" in lacks:
        why = "the VIP must be an address of each task, and the services of sequences are made of containers that stand"
        raise Unsupported("cannot be explored", where=selection.name, why=why)

    @contextmanager
    def lab() -> Iterator[Player]:
        scenario, journal = topology.load(SCENARIO), Journal()
        making = None if make is None else lambda lab: make(lab, journal)
        with journal, trial.build(scenario, selection, journal, make=making) as made:
            player = Player(made, any_port=catalog.any_port(selection))
            try:
                yield player
            finally:
                player.close()

    in_turn, hairpins = catalog.in_turn(selection), "vip_on" not in selection.knobs
    model = partial(Model, lacks, in_turn=in_turn)
    return Search(lab, model, in_turn=in_turn, hairpins=hairpins, idles=idles, found=found, played=played)


def lacking(selection: Selection, release: str) -> set[str]:
    """Return the names of the checks that are not expected to hold on a plane and a kernel."""
    return {name for name in CHECKS if expectations.expected(selection, name, release).expected != "pass"}
