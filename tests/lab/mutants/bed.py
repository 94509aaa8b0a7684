"""A lab in which one mutant after another is observed. Between two of them it is proved to be what it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial

import pytest

from bench.inside import trial
from dataplanes import catalog
from dataplanes.base import DataPlane
from dataplanes.ebpf import Ebpf
from dataplanes.errors import BenchError
from dataplanes.placed import PlacedPlane
from scenarios import checks, topology
from scenarios.checks import world
from scenarios.journal import Journal
from scenarios.lab import Lab
from tests.lab.facts import Facts
from tests.lab.mutants import Damage
from tests.lab.mutants.told import Mutant

SILENCE = 2.0
"""Seconds until a check takes silence for an answer. Here it comes soon: most damage is silence."""
_TRIES = 8
"""How often is observed what may miss the damage, but not every time: a plane that chooses at random, or a race."""
_RACES = {"change.rolling-removal"}
"""The checks that see damage only if a client connects during it."""

_KEPT = {"services", "turns", "counts", "stations", "bridge", "every", "settings"}
"""The BPF maps that traffic does not change, or of which it changes a count only."""

_REMOVAL = 2.0
_OF_LINKS = (": links", ": neighbours", ": qdiscs")

State = dict[str, object]


class Bed:
    """A lab with a plane that is damaged again and again."""

    def __init__(self, dataplane: str) -> None:
        (self._selection,) = catalog.select(dataplane)
        self.name = dataplane
        self.breaks: Callable[[Mutant], None] = _whole
        self.mutant: Mutant
        self.lab: Lab
        self._sound: set[str] = set()
        self._stack = ExitStack()
        self._build()

    def _build(self) -> None:
        self.breaks = _whole
        journal = self._stack.enter_context(Journal())
        make = partial(self._make, journal)
        self.lab = self._stack.enter_context(trial.build(topology.load("matrix"), self._selection, journal, make=make))
        self._world = world.World(self.lab)
        self._facts = self._stack.enter_context(closing(Facts(self.lab)))
        self._before = self._state()

    def _make(self, journal: Journal, lab: Lab) -> DataPlane:
        self.mutant = Mutant(catalog.make(self._selection, lab, journal))
        self.breaks(self.mutant)
        return self.mutant

    def close(self) -> None:
        """Take the lab down."""
        self._stack.close()

    @property
    def plane(self) -> PlacedPlane:
        """The plane itself."""
        assert isinstance(self.mutant.plane, PlacedPlane)
        return self.mutant.plane

    # -- observing ---------------------------------------------------------------------------------------------------

    def killed(self, check: str, damage: Damage) -> str:
        """Damage the plane, and return what a check saw if it fails then, or "". Without the damage it holds."""
        if check not in self._sound:
            assert not (whole := self.seen(check)), f"{check} fails without any damage: {whole}"
            self._sound.add(check)
        with self.damaged(damage):
            return self.seen(check)

    def seen(self, check: str) -> str:
        """Return what a check saw that differs, or "" if it holds."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(world, "TIMEOUT", SILENCE)
            for _ in range(1 if self.lab.in_turn and check not in _RACES else _TRIES):
                (cell,) = checks.observe([checks.CHECKS[check]], self._world, self.name)
                if cell.outcome == "fail":
                    return cell.detail
                assert cell.outcome == "pass", f"{check}: {cell.outcome}: {cell.detail}"
        return ""

    @contextmanager
    def damaged(self, damage: Damage) -> Iterator[None]:
        """Damage the plane for the block, and mend it."""
        try:
            with ExitStack() as undo:
                damage(self, undo)
                yield
        finally:
            self.mend()

    # -- mending -----------------------------------------------------------------------------------------------------

    def mend(self) -> None:
        """Restore the lab, by the cheapest way that restores it. The proof is what the kernel holds."""
        self.breaks = _whole
        for restore in (self._resync, self._reinstall, self._anew):
            with suppress(BenchError):
                restore()
                if self._is_as_before():
                    return
        raise AssertionError(f"{self.name}: a new lab is not like the one before")

    def _resync(self) -> None:
        self.mutant.change = lambda mutant, services: services
        self.mutant.forgets_removal = False
        self.mutant.apply(self.lab.services())
        self.mutant.resync()

    def _reinstall(self) -> None:
        self.lab.reinstall()

    def _anew(self) -> None:
        self._stack.close()
        self._build()

    def _is_as_before(self) -> bool:
        """Compare. The kernel removes the links of a namespace that is gone a little later (cleanup_net)."""
        deadline = time.monotonic() + _REMOVAL
        while True:
            now = self._state()
            differing = [key for key in now.keys() | self._before.keys() if now.get(key) != self._before.get(key)]
            left = all(key.endswith(_OF_LINKS) for key in differing)
            if not differing or not left or time.monotonic() > deadline:
                return not differing
            time.sleep(0.02)

    def _state(self) -> State:
        """Return what the kernel holds, what BPF maps hold, and the services and containers of the lab."""
        lab = {"services": self.lab.services(), "containers": sorted(self.lab.containers)}
        deaf = sorted(self.mutant.plane._deaf) if isinstance(self.mutant.plane, PlacedPlane) else []
        return {**self._facts.now(), **lab, "maps": sorted(self._maps()), "deaf nodes": deaf}

    def _maps(self) -> Iterator[tuple[object, ...]]:
        """Yield the elements of the maps that traffic does not change, without epochs, which grow with changes."""
        if not isinstance(self.mutant.plane, PlacedPlane) or not isinstance(self.plane._mechanism, Ebpf):
            return
        for (node, network), table in self.plane._mechanism._tables.items():
            for name in _KEPT & table.loaded.maps.keys():
                for key, value in table.loaded.maps[name].items():
                    kept = {"services": (key, value[:4]), "turns": (key[:4], key[8:], value), "counts": (key,)}
                    yield node, network, name, *kept.get(name, (key, value))


def _whole(mutant: Mutant) -> None:
    """Break nothing."""
