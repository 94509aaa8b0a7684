"""The search: sequences at random are played until one is not as the model allows, and then made as short as can be.

The generator is Python's own, and reads what makes sense from the model. Hypothesis would do it, too, but takes 12 s to
import and 10 ms for each operation in an emulated guest, where an operation takes 100 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from random import Random

from msgspec import Struct

from scenarios.explore import operations as do
from scenarios.explore.course import Course, SequenceStep, failed
from scenarios.explore.model import UNHEARD, Model
from scenarios.explore.operations import AnyOperation, Operations
from scenarios.explore.player import Player
from scenarios.explore.shortest import shortest

_SHORTEST, _LONGEST, _ATTEMPTS = 15, 50, 4
"""The bounds of the number of operations in a sequence, and the attempts for each. Some make no sense then."""
_TIMES = 3
"""How often a sequence that failed, and the shortest one, is played again, each time in a fresh lab."""
_AT_RANDOM = 6
"""How often a sequence is tried on a plane that chooses at random, before it is taken for one that does not fail."""
_WEIGHTS: dict[type[AnyOperation], float] = {
    do.Visit: 8,
    do.Speak: 8,
    do.Connect: 5,
    do.Ask: 4,
    do.Create: 4,
    do.Add: 4,
    do.Remove: 4,
    do.Drain: 3,
    do.Restore: 2,
    do.Start: 2,
    do.Delete: 0.5,
    do.HalfClose: 0.6,
    do.Close: 0.6,
    do.Abort: 0.6,
    do.Stop: 0.4,
    do.Crash: 0.2,
    do.Flush: 0.3,
    do.Idle: 0.3,  # under the instruction clock an hour takes ten seconds
}
"""How often kinds of operations are tried; 1 for any other.

They are chosen so that faults of `tests/unit/ideal.py` are met soon: after 60 to 570 operations on average.
"""
_ALWAYS = (do.Create, do.Connect, do.Speak)
_SOME = 0.6
"""The share of the other kinds that a sequence has. With few kinds more of each comes together."""
_IN_VAIN = 0.1
"""The share of those operations after which only silence can be seen that are made. They take seconds."""
_OPERATIONS = {kind: do.all_of(kind) for kind in do.KINDS}


class Found(Struct, frozen=True):
    """A sequence whose last step is not as expected. When it was played again so many `times`, `again` were alike."""

    steps: list[SequenceStep]
    again: int = 0
    times: int = 0

    @property
    def operations(self) -> Operations:
        """The operations of the sequence."""
        return [step.operation for step in self.steps]

    def alike(self, steps: Sequence[SequenceStep]) -> bool:
        """Return True if other steps end in the same way."""
        mine, other = self.steps[-1], steps[-1]
        same = type(mine.operation) is type(other.operation)
        return same and not other.as_expected and mine.seen.split()[:2] == other.seen.split()[:2]


class Played(Struct):
    """The amount that a search has played."""

    operations: int = 0
    sequences: int = 0
    disturbed: int = 0  # sequences of which nothing is known, because the machine was at fault
    disturbance: str = ""  # what happened in the last of them


class Search:
    """A search on one plane. It keeps a lab as long as everything is as expected."""

    def __init__(
        self,
        lab: Callable[[], AbstractContextManager[Player]],
        model: Callable[[], Model],
        *,
        in_turn: bool = True,
        hairpins: bool = True,
        idles: bool = False,
        found: Callable[[Found], object] = lambda found: None,
        played: Callable[[Played], object] = lambda played: None,
    ) -> None:
        """Create a search. `lab` makes a fresh lab. With `idles` sequences have idle time.

        `found` is called with each shorter sequence that fails, and at last with how often that failed again. `played`
        is called after each sequence.
        """
        self._lab, self._model, self._hairpins = lab, model, hairpins
        self._tries = 1 if in_turn else _AT_RANDOM
        self._kinds = [kind for kind in do.KINDS if idles or kind is not do.Idle]
        self._tell_found, self._tell_played = found, played
        self._stack = ExitStack()
        self._player: Player | None = None
        self.played = Played()

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(self, seed: int, most: int | None = None) -> Found | None:
        """Play sequences at random until one fails, and return the shortest; None after `most` operations.

        One that never fails again is told, but ends no search.
        """
        for number in count():
            if most is not None and self.played.operations >= most:
                break
            steps = self._at_random(Random(f"{seed}/{number}"))
            if failed(steps) and (found := self.shorten(steps)).again:
                return found
        return None

    def replay(self, operations: Sequence[AnyOperation]) -> list[SequenceStep]:
        """Play a sequence, and return the steps until one is not as expected; none if the machine is at fault."""
        for _ in range(_TIMES):
            before = self.played.disturbed
            with self._playing() as course:
                course.play(operations)
            if self.played.disturbed == before:
                break
        return course.steps

    def shorten(self, steps: list[SequenceStep]) -> Found:
        """Return the shortest sequence that ends in the same way."""
        best = Found(steps)
        self._tell_found(best)

        def fails(operations: Operations) -> Operations | None:
            nonlocal best
            for _ in range(self._tries):
                played = self.replay(operations)
                if played and best.alike(played):
                    best = Found(played)
                    return best.operations
            return None

        def again() -> int:
            return sum(bool(fails(best.operations)) for _ in range(_TIMES))

        times = again()
        if times:
            shortest(best.operations, fails, lambda _: self._tell_found(best))
            times = again()
        best = Found(best.steps, times, _TIMES)
        self._tell_found(best)
        return best

    def _at_random(self, random: Random) -> list[SequenceStep]:
        """Play a sequence of operations at random, and return its steps."""
        kinds = [kind for kind in self._kinds if kind in _ALWAYS or random.random() < _SOME]
        weights = [_WEIGHTS.get(kind, 1) for kind in kinds]
        names = {
            name for each in (do.CALLERS, do.TARGETS) for name in random.sample(each, random.randint(1, len(each)))
        }
        options = {kind: [each for each in _OPERATIONS[kind] if _named(each) <= names] for kind in kinds}
        with self._playing() as course:
            length = random.randint(_SHORTEST, _LONGEST)
            for kind in random.choices(kinds, weights, k=length * _ATTEMPTS):
                shuffled = random.sample(options[kind], len(options[kind]))
                chosen = next(filter(course.may, shuffled), None)
                if chosen and (random.random() < _IN_VAIN or not course.model.allowed(chosen) <= UNHEARD):
                    course.take(chosen)
                if course.failed or len(course.steps) == length:
                    break
        return course.steps

    @contextmanager
    def _playing(self) -> Iterator[Course]:
        """Yield a course on the lab, and bring the lab back to its first state; after a failure a fresh one comes."""
        if self._player is None:
            self._player = self._stack.enter_context(self._lab())
        player = self._player
        course = Course(player, self._model(), hairpins=self._hairpins)
        yield course
        ended = course.failed
        if disturbance := player.disturbance():
            course.steps.clear()
            self.played.disturbed += 1
            self.played.disturbance = disturbance
        else:
            self.played.operations += len(course.steps)
            self.played.sequences += 1
        if ended:
            self._player = None
            self._stack.close()
        else:
            player.end()
        self._tell_played(self.played)


def _some(random: Random, names: Sequence[str]) -> list[str]:
    """Return some of the names, and more often few: with few names more happens to the same thing."""
    return random.sample(names, min(random.randint(1, len(names)) for _ in range(2)))


def _named(operation: AnyOperation) -> set[str]:
    """Return the names by which an operation is chosen: of a service that is changed, or of a flow's ends."""
    if isinstance(operation, do.Visit | do.Connect | do.Ask):
        return {operation.client, operation.to}
    return {operation.service} if hasattr(operation, "service") else set()
