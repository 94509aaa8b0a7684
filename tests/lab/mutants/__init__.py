"""Damage of planes: what a check must notice.

A *mutant* is a plane with one fault: it is told something else than the lab's state (told.py), it has lost something
that is named by hand for the planes that need it (lost.py), or one object of what it has programmed is gone or is
another one. Those of the last kind are generated from what the kernel holds (ruleset.py, virtual.py, maps.py,
settings.py), and from the texts of programs (source.py). scenarios/mutants.toml says which check kills each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.mutants.bed import Bed

Damage = Callable[["Bed", ExitStack], None]
"""It damages the plane of a bed. What mending the plane would not undo is undone by the stack."""
