"""The table of mutants: planes in whose source one fault is planted, as a maintainer might make it.

Each file of `rows` is about one mechanism, and each row of it is one mutant: a text of the plane's source that is
replaced. So a plane knows nothing of it. A row whose text is not in the source, or is there twice, is an error.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from tests.conftest import ROOT

SOURCES = ROOT / "dataplanes"
EXPLORED = ROOT / "tests" / "explored"
_ROWS = Path(__file__).parent / "rows"


class Mutant(Struct, frozen=True, forbid_unknown_fields=True):
    """One row. It is killed by a check of the matrix or by a kept sequence of the exploration, or it survives."""

    name: str
    plane: str
    fault: str  # what goes wrong, as a sentence
    file: str  # below dataplanes/
    old: str
    new: str
    check: str = ""
    sequence: str = ""  # the name of a file in tests/explored
    survives: str = ""  # why the check does not kill it

    def changed(self) -> str:
        """Return the file's text with the fault."""
        text = (SOURCES / self.file).read_text("utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.old)} times: {self.old}")
        if self.old == self.new:
            raise ValueError(f"{self.name} changes nothing")
        return text.replace(self.old, self.new)


class _File(Struct, forbid_unknown_fields=True):
    mutant: list[Mutant]


def load() -> dict[str, list[Mutant]]:
    """Return the mutants of each mechanism."""
    return {
        path.stem: msgspec.toml.decode(path.read_bytes(), type=_File).mutant for path in sorted(_ROWS.glob("*.toml"))
    }
