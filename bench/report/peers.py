"""The lists and tables of docs/peers.md: what each peer was seen to have and lack, to cost, and to program.

They are made of documents that `bench publish` makes (results/peers), and of what is kept of the programmed rules
(docs/programmed, bench.report.programmed). Reasons are in the peers' expected.toml. `bench publish` writes the page,
and so does `python -m bench.report.peers`; a test keeps it up to date.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bench.documents import Matrix, MatrixCell, Result, reading
from bench.report import peers_cost
from bench.report.model import PUBLISHED, Report, load, published
from bench.report.programmed import compared, parsed
from dataplanes import catalog, files
from dataplanes.selection import Selection, title
from scenarios import expectations
from scenarios.checks import CHECKS, Check, skipped

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
_DUMPS = PAGE.parent / "programmed"
_PART = re.compile(r"(<!-- ((?!end of).+?) -->\n).*?(<!-- end of [\w ]+ -->)", re.S)
_DIFFERENCES = re.compile(r"differences of (\S+?)(?: from (\S+))?")
_DUMPED = re.compile(r"(\S+) programs instead of (\S+)")
_NOT_APPLICABLE = "not applicable: "
_SAID = {"pass": "holds", "fail": "does not hold", "skip": "not applicable"}


class PeerDocuments:
    """The documents about peers in a directory, and the report of the planes that they are held against."""

    def __init__(self, directory: Path, planes: Report) -> None:
        self.planes = planes
        self.results: dict[str, Result] = {}
        self.matrices: list[Matrix] = []
        self._cells: dict[tuple[str, str], dict[str, MatrixCell]] = {}
        for path in sorted(directory.glob("*.json")):
            found = reading.read(str(path))
            if isinstance(found, Result):
                self.results[path.stem] = found
            else:
                self.matrices.append(found)
                for cell in found.cells:
                    self._cells.setdefault((cell.kernel, cell.dataplane), {})[cell.check] = cell

    def cells(self) -> Mapping[tuple[str, str], Mapping[str, MatrixCell]]:
        """Return the cells by kernel and peer."""
        return self._cells

    def told(self, kernel: str, peer: str) -> str:
        """Return how a kernel is called in tables: by its release if it is the one of the machine."""
        found = (each.environment.get(kernel) for each in self.matrices if peer in _names(each))
        release = next((each["kernel"] for each in found if each), "")
        return f"{release.partition('-')[0]}, the machine's own" if kernel == "host" else kernel.removeprefix("debian-")

    def kernel(self, peer: Selection) -> str:
        """Return the newest kernel on which a peer was observed, "" for a peer without a document."""
        return max((kernel for kernel, name in self._cells if name == peer.name), key=_numbers, default="")

    def cell(self, kernel: str, selection: Selection, check: str) -> MatrixCell | None:
        """Return a cell of a peer or of a plane of the catalog, or None."""
        named = title(selection.name, selection.dataplane, selection.variant)
        own = self._cells.get((kernel, selection.name), {}).get(check)
        return own or self.planes.cell(kernel, named, check)

    def packages(self) -> dict[str, dict[str, str]]:
        """Return the version of every package of every peer, the peer's own first."""
        found: dict[str, dict[str, str]] = {}
        for matrix in self.matrices:
            for each in matrix.plan["dataplanes"]:
                told: Mapping[str, Any] = each["program"] or {}
                found[each["name"]] = {one["name"]: one["version"] for one in told.get("packages", [])}
        return found


def _names(matrix: Matrix) -> list[str]:
    return [each["name"] for each in matrix.plan["dataplanes"]]


def written(page: str, seen: PeerDocuments) -> str:
    """Return the page with its lists and tables made anew."""
    return _PART.sub(lambda found: found[1] + "\n".join(_made(found[2], seen)) + "\n" + found[3], page)


def _made(what: str, seen: PeerDocuments) -> Iterator[str]:
    """Yield the lines of a part of the page, which its first line names."""
    if found := _DIFFERENCES.fullmatch(what):
        return differences(found[1], found[2], seen)
    if found := _DUMPED.fullmatch(what):
        return programs(found[1], found[2])
    tables = {
        "cells": cells(seen),
        "versions": versions(seen),
        "cost of programs": peers_cost.beside(seen.results, "cost-of-programs"),
        "cost of ovn": peers_cost.beside(seen.results, "cost-of-ovn"),
        "cost of platforms": peers_cost.platforms(seen.results, seen.planes),
        "cost of containers": peers_cost.containers(seen.results),
    }
    return tables[what]


def programs(name: str, other: str) -> Iterator[str]:
    """Yield the lines that only one of two has programmed, out of what is kept of both."""
    mine, its = (parsed((_DUMPS / f"{each}.txt").read_text("utf-8")) for each in (name, other))
    yield from ("```diff", *compared(its, mine), "```")


def cells(seen: PeerDocuments) -> Iterator[str]:
    """Yield the table of what was observed of each peer on each kernel."""
    yield "| peer | kernel | checks | hold | do not hold | not applicable or observed nowhere | not as expected |"
    yield "|---|---|---|---|---|---|---|"
    for (kernel, peer), found in sorted(seen.cells().items(), key=lambda each: (each[0][1], each[0][0])):
        outcomes = Counter(each.outcome for each in found.values())
        wrong = sum(1 for each in found.values() if each.outcome != each.expected)
        counts = (len(found), outcomes["pass"], outcomes["fail"], outcomes["skip"], wrong)
        yield f"| `{peer}` | {seen.told(kernel, peer)} | " + " | ".join(map(str, counts)) + " |"


def versions(seen: PeerDocuments) -> Iterator[str]:
    """Yield the table of the packages that were observed: those that a peer asks for."""
    yield "| peer | packages | versions that were observed |"
    yield "|---|---|---|"
    for peer, found in seen.packages().items():
        asked = [each for need in catalog.requires(catalog.peer(peer)) for each in _asked(need)]
        told = ", ".join(f"{each.partition('/')[0]} {found.get(each.partition('/')[0], '?')}" for each in asked)
        yield f"| `{peer}` | {', '.join(f'`{each}`' for each in asked)} | {told} |"


def _asked(need: object) -> tuple[str, ...]:
    from dataplanes.requirements import Unpacked

    return tuple(need.packages()) if isinstance(need, Unpacked) else ()


def differences(name: str, other: str | None, seen: PeerDocuments) -> Iterator[str]:
    """Yield the lines of a peer's section: how many checks are as on its imitation, and the others by their reason.

    A version of a platform may be told by what it differs in from another one. Of a plane without a document, such as a
    variant, what is expected is told, which its own tests hold it to.
    """
    peer = catalog.peer(name)
    imitated = catalog.peer(other) if other else catalog.imitated(peer)
    assert imitated
    kernel = seen.kernel(peer)
    found = [
        (check, mine, its)
        for check, each in CHECKS.items()
        if not each.skip
        and (mine := seen.cell(kernel, peer, check) if kernel else _expected(peer, each))
        and not _unobserved(mine)
        and (its := (seen.cell(kernel, imitated, check) if kernel else None) or _expected(imitated, each))
    ]
    rows = _rows(peer, found)
    same = len(found) - sum(len(checks) for checks, *_ in rows)
    have = "have" if kernel else "are expected to have"
    yield f"{same} of {len(found)} checks {have} the outcome of `{imitated.name}`" + (". The others:" if rows else ".")
    if rows:
        yield ""
    for checks, was, is_now, reason, source in rows:
        told = ", ".join(f"`{each}`" for each in checks)
        item = f"- {told}: **{_SAID[is_now]}** ({_SAID[was]} on `{imitated.name}`). {reason[0].upper()}{reason[1:]}."
        yield from textwrap.wrap(
            item + (f" Source: {source}." if source else ""), 120, subsequent_indent="  ", break_on_hyphens=False
        )


def _unobserved(cell: MatrixCell) -> bool:
    """Return True if the kernel or the clock was not one for this check, so that nothing was told about the peer."""
    return cell.outcome == "skip" and bool(cell.detail) and not cell.detail.startswith(_NOT_APPLICABLE)


def _rows(
    peer: Selection, found: list[tuple[str, MatrixCell, MatrixCell]]
) -> list[tuple[list[str], str, str, str, str]]:
    """Return what differs: the checks, both outcomes, the reason and its source; first what was seen to differ."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for check, mine, its in found:
        if mine.outcome != its.outcome:
            told = its.outcome, mine.outcome, *_reason(peer, mine)
            rows.setdefault(told, []).append(check)
    return sorted(((checks, *told) for told, checks in rows.items()), key=lambda row: row[2] == "skip")


def _reason(peer: Selection, cell: MatrixCell) -> tuple[str, str]:
    """Return why a cell has its outcome, and the source. A document has no reason for what holds."""
    if cell.outcome == "pass":
        expected = expectations.expected(peer, cell.check, _release(cell.kernel))
        return expected.reason, expected.reference
    return (cell.reason or cell.detail).removeprefix(_NOT_APPLICABLE), cell.reference


def _expected(selection: Selection, each: Check) -> MatrixCell:
    """Return the cell that is expected of a check, for a peer without a document."""
    kernel, name = "debian-6.12", selection.name
    traits = catalog.any_port(selection), catalog.in_turn(selection), catalog.protocols(selection)
    if why := skipped(msgspec.structs.replace(each, obstacle=None), "instructions", *traits):
        return MatrixCell(kernel, name, each.name, "skip", "skip", why, 0.0)
    found = expectations.expected(selection, each.name, _release(kernel))
    told = found.reason, found.reference
    return MatrixCell(kernel, name, each.name, found.expected, found.expected, "", 0.0, *told)


def _release(kernel: str) -> str:
    """Return the release that a Debian kernel's name begins with after its distribution."""
    return kernel.partition("-")[2]


def _numbers(kernel: str) -> list[int]:
    return [int(each) for each in _release(kernel).split(".") if each.isdigit()]


def main() -> None:
    """Write the lists and tables."""
    seen = PeerDocuments(PUBLISHED / "peers", load(published()))
    files.write(PAGE, written(PAGE.read_text("utf-8"), seen).encode())


if __name__ == "__main__":
    main()
