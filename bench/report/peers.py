"""The lists of docs/peers.md: what each peer has or lacks, and programs, against the plane that it imitates.

Each difference was observed, and `bench matrix --dataplane peers` observes it again: a cell that is not as expected is
red. What is programmed is in docs/programmed (bench.report.programmed). `python -m bench.report.peers` writes the
lists, and a test keeps them up to date.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.report.programmed import compared, parsed
from dataplanes import catalog, files
from dataplanes.selection import Selection
from scenarios import expectations
from scenarios.checks import CHECKS, Check, skipped

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
_SECTION = re.compile(r"(<!-- differences of (\S+)(?: from (\S+))? -->\n).*?(<!-- end of differences -->)", re.S)
_DUMPS = PAGE.parent / "programmed"
_DUMPED = re.compile(r"(<!-- (\S+) programs instead of (\S+) -->\n).*?(<!-- end of what it programs -->)", re.S)
_SAID = {"pass": "holds", "fail": "does not hold", "skip": "not applicable"}
_CLOCK, _RELEASE = "instructions", "6.12"


def written(page: str) -> str:
    """Return the page with its lists made anew."""
    page = _SECTION.sub(lambda found: found[1] + "\n".join(differences(found[2], found[3])) + "\n" + found[4], page)
    return _DUMPED.sub(lambda found: found[1] + "\n".join(programs(found[2], found[3])) + "\n" + found[4], page)


def programs(name: str, other: str) -> Iterator[str]:
    """Yield the lines that only one of two has programmed, out of what is kept of both."""
    mine, its = (parsed((_DUMPS / f"{each}.txt").read_text("utf-8")) for each in (name, other))
    yield from ("```diff", *compared(its, mine), "```")


def differences(name: str, other: str | None = None) -> Iterator[str]:
    """Yield the lines of a peer's section: how many checks are as on its imitation, and the others by their reason.

    A version of a platform may be told by what it differs in from another one.
    """
    peer = catalog.peer(name)
    imitated = catalog.peer(other) if other else catalog.imitated(peer)
    assert imitated
    rows = _rows(peer, imitated)
    observed = [each for each in CHECKS.values() if not each.skip]
    same = len(observed) - sum(len(checks) for checks, *_ in rows)
    yield f"{same} of {len(observed)} checks are expected to have the outcome of `{imitated.name}`" + (
        ". The others:" if rows else "."
    )
    if rows:
        yield ""
    for checks, was, is_now, reason, source in rows:
        told = ", ".join(f"`{each}`" for each in checks)
        item = f"- {told}: **{_SAID[is_now]}** ({_SAID[was]} on `{imitated.name}`). {reason[0].upper()}{reason[1:]}."
        yield from textwrap.wrap(
            item + (f" Source: {source}." if source else ""), 120, subsequent_indent="  ", break_on_hyphens=False
        )


def _rows(peer: Selection, imitated: Selection) -> list[tuple[list[str], str, str, str, str]]:
    """Return what differs: the checks, both outcomes, the reason and its source; first what was seen to differ."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for check, each in CHECKS.items():
        (was, _, _), (is_now, reason, source) = _outcome(imitated, each), _outcome(peer, each)
        if was != is_now:
            found.setdefault((was, is_now, reason, source), []).append(check)
    return sorted(((checks, *told) for told, checks in found.items()), key=lambda row: row[2] == "skip")


def _outcome(selection: Selection, each: Check) -> tuple[str, str, str]:
    """Return the expected outcome of a check on a plane with its reason and source, on the newest kernel."""
    traits = catalog.any_port(selection), catalog.in_turn(selection), catalog.protocols(selection)
    if why := skipped(msgspec.structs.replace(each, obstacle=None), _CLOCK, *traits):
        return "skip", why.removeprefix("not applicable: "), ""
    found = expectations.expected(selection, each.name, _RELEASE)
    return found.expected, found.reason, found.reference


def main() -> None:
    """Write the lists."""
    files.write(PAGE, written(PAGE.read_text("utf-8")).encode())


if __name__ == "__main__":
    main()
