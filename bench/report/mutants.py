"""The faults that were planted in the planes, and which of them a check found: tests/lab/mutants/score.json.

`tox -e mutants` plants them, and tests/lab/mutants/score.py writes the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.report.columns import table
from dataplanes import files
from dataplanes.texts import code

TITLE = "Whether the checks can fail"
_MOST = 4 << 20
_FILE = Path("tests", "lab", "mutants", "score.json")


class Tried(Struct, frozen=True, forbid_unknown_fields=True):
    """A fault that was planted in the source of a plane."""

    mechanism: str
    name: str
    plane: str
    fault: str
    by: str  # the check, or the sequence of the exploration, that is to find it
    explored: bool
    kernel: str  # on which it was tried; nothing if it was not tried yet
    seen: str  # what was seen instead of what is expected; nothing if the fault was not found
    survives: str  # why it was not found


def tried_in(root: Path) -> list[Tried]:
    """Return the faults that a checkout has tried."""
    path = root / _FILE
    return msgspec.json.decode(files.content(path, _MOST), type=list[Tried]) if path.exists() else []


def write(root: Path, tried: Sequence[Tried]) -> None:
    """Write the faults that were tried to the checkout, in an order that does not depend on the run."""
    ordered = sorted(tried, key=lambda each: (each.mechanism, each.name))
    files.write(root / _FILE, msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")


def section(tried: Sequence[Tried]) -> list[str]:
    """Return the section about them as lines of Markdown, or nothing if none was tried."""
    waiting, tried = [each for each in tried if not each.kernel], [each for each in tried if each.kernel]
    if not tried:
        return []
    found = [each for each in tried if each.seen]
    more = f" {len(waiting)} more are in the table and were not tried yet." if waiting else ""
    mechanisms = dict.fromkeys(each.mechanism for each in tried)
    lines = [
        f"## {TITLE}",
        "",
        "Faults, as a maintainer might make them, were planted one by one in the sources of the planes: a reply that",
        "is not translated, a setting that is forgotten, a key without its port. Each was to be found by the one check",
        f"that its row in `tests/lab/mutants/rows` names. Of {len(tried)} faults {len(found)} were found, by",
        f"{len({each.by for each in found})} different checks. `tox -e mutants` plants them again.{more}",
        "",
        *table(["mechanism", "planes", "faults", "found", "share"], [_row(each, tried) for each in mechanisms]),
        "",
    ]
    if left := [each for each in tried if not each.seen]:
        lines += ["These were not found:", ""]
        lines += [f"- {code(each.plane)}: {each.fault} *Why*: {each.survives}" for each in left]
        lines.append("")
    return lines


def _row(mechanism: str, tried: Sequence[Tried]) -> list[str]:
    own = [each for each in tried if each.mechanism == mechanism]
    found = sum(bool(each.seen) for each in own)
    planes = ", ".join(dict.fromkeys(each.plane for each in own))
    return [mechanism, planes, f"{len(own)}", f"{found}", f"{found / len(own):.0%}"]
