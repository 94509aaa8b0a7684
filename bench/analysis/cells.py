"""What changed between two matrices: outcomes that were gained or lost, and observations of the same outcome."""

from __future__ import annotations

import re
from typing import Literal

from bench.documents import Matrix, MatrixCell
from bench.documents.comparison import CellChange, SameCell

_CHOSEN = re.compile(
    r"(?P<probe>probe\d+)"
    r"|(?P<mac>(?:[0-9a-f]{2}:){5}[0-9a-f]{2})"
    r"|(?P<port>(?<=[:/ ])(?:9\d{3}|[3-6]\d{4})\b)"
)
"""Names and numbers that a run chooses: its checks' own services and ports, the clients' ports, the kernel's MACs."""

CellKey = tuple[str, str, str]
"""The kernel, the data plane and the check of a cell."""


def by_key(matrix: Matrix) -> dict[CellKey, MatrixCell]:
    """Return the cells of a matrix by what they are about."""
    return {(cell.kernel, cell.dataplane, cell.check): cell for cell in matrix.cells}


def compared(base: Matrix, new: Matrix) -> tuple[list[CellChange], list[SameCell]]:
    """Return the cells that both matrices have: those in which they differ, and the others, in BASE's order."""
    found, changed, same = by_key(new), list[CellChange](), list[SameCell]()
    for key, cell in by_key(base).items():
        if key in found and (change := _change(cell, found[key])):
            changed.append(change)
        elif key in found:
            same.append(SameCell(*key, cell.outcome))
    return changed, same


def _change(base: MatrixCell, new: MatrixCell) -> CellChange | None:
    observed = ("pass", "fail")
    what: Literal["gained", "lost", "changed", "detail"]
    if base.outcome == new.outcome:
        if alike(base.detail) == alike(new.detail):
            return None
        what = "detail"
    elif base.outcome == "pass" or (base.outcome in observed and new.outcome not in observed) or new.outcome == "error":
        what = "lost"
    else:
        what = "gained" if new.outcome == "pass" else "changed"
    return CellChange(
        new.kernel, new.dataplane, new.check, base.outcome, new.outcome, new.detail, what, base_detail=base.detail
    )


def alike(detail: str) -> str:
    """Return the observation with what a run chooses replaced by its kind and its place among others of that kind.

    A matrix of fewer checks numbers its services in another way, and sees the same.
    """
    places: dict[str, str] = {}

    def placed(found: re.Match[str]) -> str:
        kind = found.lastgroup or ""
        return places.setdefault(found[0], f"{kind} {len(places)}")

    return _CHOSEN.sub(placed, detail)
