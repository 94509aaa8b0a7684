"""The planes that keep a clause of the specification, and why others do not, from expected.toml and the catalog.

A plane is one of ours in one of its variants, `plane@variant`, and the whole page is about those: other packages have
pages of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from msgspec import Struct, structs

from dataplanes import catalog
from dataplanes.selection import Selection, balances
from scenarios import checks, expectations
from scenarios.checks import Check
from scenarios.clauses import Clause
from scenarios.expectations import Expectation


class Lack(Struct, frozen=True):
    """The planes that do not keep a clause for one reason, or that it does not apply to."""

    reason: str
    reference: str
    kernels: list[str]  # prefixes of kernel releases; empty: all kernels
    planes: tuple[str, ...]  # with their variants
    checks: tuple[str, ...]  # those that do not hold
    applies: bool = True


@cache
def selections() -> dict[str, Selection]:
    """Return our own planes that have VIPs, in every variant."""
    return {
        f"{plane}@{each.variant}": each
        for plane in filter(balances, catalog.BUILT_IN)
        for each in catalog.variants(plane)
    }


def unobserved(clause: Clause) -> str:
    """Return why no check observes a clause anywhere, or "" if one does."""
    reasons = [checks.CHECKS[each].skip for each in (*clause.checks, *clause.besides)]
    return "" if "" in reasons else reasons[0]


def lacks(clause: Clause) -> list[Lack]:
    """Return where a clause is not kept, and then where it does not apply, by reason.

    A plane on which a check about the clause does not hold does not keep it. A clause that is only shown besides is
    kept where one of those checks holds: the others may fail for what they are about.
    """
    found: dict[tuple[str, str, tuple[str, ...], bool], tuple[dict[str, None], dict[str, None]]] = {}
    for name, selection in selections().items():
        for release in _releases():
            missing = {
                each: _missing(selection, checks.CHECKS[each], release) for each in clause.checks or clause.besides
            }
            if not clause.checks and None in missing.values():
                continue
            for check, why in missing.items():
                if why:
                    key = (why.reason, why.reference, tuple(why.kernels), why.expected == "fail")
                    planes, lost = found.setdefault(key, ({}, {}))
                    planes[name] = lost[check] = None
    made = [
        Lack(reason, reference, [*kernels], tuple(planes), tuple(lost), applies)
        for (reason, reference, kernels, applies), (planes, lost) in found.items()
    ]
    return sorted(made, key=lambda lack: not lack.applies)


def _missing(selection: Selection, check: Check, release: str) -> Expectation | None:
    """Return why a check is not expected to hold on a plane and kernel, or None if it is."""
    unhindered = structs.replace(check, obstacle=None)  # what the kernel that runs this lacks is beside the point
    able = catalog.any_port(selection), catalog.in_turn(selection), catalog.protocols(selection)
    if why := checks.skipped(unhindered, "instructions", *able):
        return Expectation([check.name], [], why.removeprefix("not applicable: "), "skip")
    found = expectations.expected(selection, check.name, release)
    return None if found.expected == "pass" else found


def _releases() -> Iterator[str]:
    """Yield a release that no expectation names, and one for each that is about some kernels only."""
    yield "a release that nothing is said of"
    yield from dict.fromkeys(each.kernels[0] for each in expectations.load() if each.kernels)
