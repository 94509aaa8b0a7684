"""What the report asks of its documents (questions.toml): planes to compare with, questions, causes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """A question of somebody who chooses a plane, and the checks that answer it."""

    name: str
    asks: str
    checks: list[str]
    situation: str


class Shipped(Struct, frozen=True, forbid_unknown_fields=True):
    """A data plane that Docker has shipped."""

    plane: str  # with its variant
    by: str


class Cause(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a plane's ratio is another one by time than by instructions."""

    plane: str  # with its variant
    faster: bool  # by time than by instructions
    why: str


class _Asked(Struct, frozen=True, forbid_unknown_fields=True):
    asked: list[str]
    hidden: str
    shipped: list[Shipped]
    places: dict[str, str]
    question: list[Question]
    cause: list[Cause] = []


_ASKED = msgspec.toml.decode((Path(__file__).parent / "questions.toml").read_text("utf-8"), type=_Asked)
QUESTIONS = _ASKED.question
SHIPPED = _ASKED.shipped
REFERENCE = SHIPPED[0].plane
"""The reference for "the same effect": the plane of the article."""
CAUSES = _ASKED.cause
"""The causes that were found of disagreements between the clocks."""
PLACES_ASKED = _ASKED.asked
"""The placements that the article asks about."""
HIDDEN = _ASKED.hidden
"""The question whose yes means that the application sees nothing of the plane."""
PLACES = _ASKED.places
"""The placements in words."""


def place(placement: str) -> str:
    """Return a placement in words."""
    return PLACES.get(placement, placement)


def topics(checks: Sequence[str]) -> list[str]:
    """Return what checks are about, in a few words: a question if all its checks are here, or else the check's name."""
    whole = {
        check: each.name
        for each in QUESTIONS
        if len(each.checks) > 1 and {*each.checks} <= {*checks}
        for check in each.checks
    }
    return list(dict.fromkeys(whole.get(check, check.partition(".")[2]) for check in checks))
