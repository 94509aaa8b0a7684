"""Damage of planes: what a check must notice.

A *mutant* is a plane with one fault: it is told something else than the lab's state (told.py), or it has lost something
that is named by hand for the planes that need it (lost.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.mutants.bed import Bed

Damage = Callable[["Bed", ExitStack], None]
"""It damages the plane of a bed. What mending the plane would not undo is undone by the stack."""
