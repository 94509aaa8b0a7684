"""One sequence as it is played: each operation, what the model allows after it, and what is seen."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from scenarios.explore.model import Model
from scenarios.explore.operations import SILENCE, AnyOperation, Operations, told
from scenarios.explore.player import Player


class SequenceStep(Struct, frozen=True):
    """An operation that was made, as a sentence, with what was expected and what was seen."""

    operation: AnyOperation
    sentence: str
    expected: str
    seen: str
    as_expected: bool


class Course:
    """A sequence that is played on a lab, until something is seen that the model does not allow."""

    def __init__(self, player: Player, model: Model) -> None:
        self._player, self.model = player, model
        self.steps: list[SequenceStep] = []
        player.begin()

    @property
    def failed(self) -> bool:
        """Whether the last operation was not as expected."""
        return bool(self.steps) and not self.steps[-1].as_expected

    @property
    def operations(self) -> Operations:
        """The operations that were made."""
        return [step.operation for step in self.steps]

    def take(self, operation: AnyOperation) -> None:
        """Make an operation, unless it makes no sense here."""
        if not self.model.may(operation):
            return
        allowed = self.model.allowed(operation)
        seen = self._player.play(operation, patient=SILENCE not in allowed)
        error = f": {self._player.error}" if self._player.error else ""
        as_expected = seen in allowed
        step = SequenceStep(operation, operation.sentence(), told(allowed), told([seen]) + error, as_expected)
        self.steps.append(step)
        if as_expected:
            self.model.take(operation, seen, self._player.now)

    def play(self, operations: Sequence[AnyOperation]) -> bool:
        """Play a whole sequence. Return True if something was not as expected, which ends it."""
        for each in operations:
            self.take(each)
            if self.failed:
                return True
        return False
