"""The specification of a service VIP: numbered clauses in groups, from clauses.toml.

A clause says what a VIP promises. A check observes it on a plane. Each check is *about* one clause, whose level is the
check's, and it may show other clauses *besides*, which it cannot pass without.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import msgspec
from msgspec import Struct

Level = Literal["core", "extended", "visible"]
"""Who relies on a clause: any user of a VIP, some, or nobody's traffic."""
LEVELS: tuple[Level, ...] = get_args(Level)


class Clause(Struct, frozen=True, forbid_unknown_fields=True):
    """A promise of a service VIP. Its number and its name are never given to another one."""

    number: str  # of its group and in its group: 4.2
    name: str
    says: str
    level: Level
    rationale: str
    sources: list[str]  # in the forms that docs/sources.md lists
    checks: list[str] = []  # those about it: a plane on which one does not hold does not keep the clause
    besides: list[str] = []  # those about another clause that cannot hold without this one
    elsewhere: dict[str, list[str]] = {}  # key of a suite -> the tests there that ask for the same


class Suite(Struct, frozen=True, forbid_unknown_fields=True):
    """A suite of somebody else's tests."""

    key: str
    title: str
    where: str


class Group(Struct, frozen=True, forbid_unknown_fields=True):
    """Clauses about one subject. Groups are numbered from 1 in the order of the file."""

    title: str
    about: str
    clause: list[Clause]


class Outside(Struct, frozen=True, forbid_unknown_fields=True):
    """A subject that no check can be about yet, because the lab cannot express it."""

    subject: str
    takes: str  # what it would take
    sources: list[str]


class _Specification(Struct, frozen=True, forbid_unknown_fields=True):
    suite: list[Suite]
    group: list[Group]
    outside: list[Outside]


def _load() -> _Specification:
    with open(os.path.join(os.path.dirname(__file__), "clauses.toml"), encoding="utf-8") as file:
        return msgspec.toml.decode(file.read(), type=_Specification)


_SPECIFICATION = _load()
SUITES = _SPECIFICATION.suite
GROUPS = _SPECIFICATION.group
OUTSIDE = _SPECIFICATION.outside
CLAUSES = [clause for group in GROUPS for clause in group.clause]
_ABOUT = {check: clause for clause in CLAUSES for check in clause.checks}


def about(check: str) -> Clause | None:
    """Return the clause that a check is about. Checks of other packages are about none."""
    return _ABOUT.get(check)


def level(check: str) -> Level:
    """Return the level of the clause that a check is about. Checks of other packages are extended."""
    clause = about(check)
    return clause.level if clause else "extended"
