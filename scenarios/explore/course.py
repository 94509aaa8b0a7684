"""One sequence as it is played: each operation, what the model allows after it, and what is seen."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from scenarios.explore.model import Model
from scenarios.explore.operations import SILENCE, AnyOperation, told
from scenarios.explore.player import Player
from scenarios.explore.sense import makes_sense


class SequenceStep(Struct, frozen=True):
    """An operation that was made, as a sentence, with what was expected and what was seen."""

    operation: AnyOperation
    sentence: str
    expected: str
    seen: str
    as_expected: bool


def failed(steps: Sequence[SequenceStep]) -> bool:
    """Return True if the last step was not as expected."""
    return bool(steps) and not steps[-1].as_expected


class Course:
    """A sequence that is played on a lab, until something is seen that the model does not allow."""

    def __init__(self, player: Player, model: Model, *, hairpins: bool = True) -> None:
        self._player, self.model, self._hairpins = player, model, hairpins
        self.steps: list[SequenceStep] = []
        player.begin()

    @property
    def failed(self) -> bool:
        """Whether the last operation was not as expected."""
        return failed(self.steps)

    def may(self, operation: AnyOperation) -> bool:
        """Return True if the operation makes sense now."""
        return makes_sense(operation, self.model, hairpins=self._hairpins)

    def take(self, operation: AnyOperation) -> None:
        """Make an operation, unless it makes no sense here."""
        if not self.may(operation):
            return
        allowed = self.model.allowed(operation)
        seen = self._player.play(operation, patient=SILENCE not in allowed)
        error = f": {self._player.error}" if self._player.error else ""
        as_expected = seen in allowed
        step = SequenceStep(operation, operation.sentence(), told(allowed), told([seen]) + error, as_expected)
        self.steps.append(step)
        if as_expected:
            self.model.take(operation, seen, self._player.now)

    def play(self, operations: Sequence[AnyOperation]) -> None:
        """Play a whole sequence, until something is not as expected."""
        for each in operations:
            self.take(each)
            if self.failed:
                return
