"""The document of `bench explore`: what was played, and the sequences after which something was not as expected."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from bench.documents import SCHEMA, Count, Name
from scenarios.explore.course import SequenceStep, failed
from scenarios.explore.operations import Operations

MOST_OPERATIONS = 10_000_000
"""The largest number of operations of one exploration."""


class Exploring(Struct, frozen=True):
    """The request to explore one plane: sequences to play, and then how many operations at random; None: no limit."""

    seed: Count
    operations: Count | None
    sequences: list[Operations] = []


class Finding(Struct, frozen=True):
    """A sequence on one plane, whose last step was not as expected unless it was only replayed.

    It was played again `times` in fresh labs, and `again` so many ended alike.
    """

    dataplane: Name
    steps: list[SequenceStep]
    again: Count = 0
    times: Count = 0

    @property
    def failed(self) -> bool:
        """Whether the last step was not as expected."""
        return failed(self.steps)

    @property
    def operations(self) -> Operations:
        """The operations of the sequence."""
        return [step.operation for step in self.steps]


class Explored(Struct):
    """The amount that was played on one plane."""

    dataplane: Name
    operations: Count = 0
    sequences: Count = 0
    disturbed: Count = 0  # sequences that do not count, because the machine was at fault
    disturbance: str = ""  # what happened in the last of them
    skipped: str = ""  # why it cannot be explored


class Exploration(Struct, tag_field="kind", tag="exploration"):
    """The document that `bench explore -o` writes."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    explored: list[Explored]
    findings: list[Finding]
    schema: Literal[2] = SCHEMA
