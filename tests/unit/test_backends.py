"""What checks do to meet each of several backends, whether the plane chooses in turn or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scenarios.checks.backends import reached, shared
from scenarios.checks.balance import _in_turn
from scenarios.checks.world import Differs, Pair, World, refused


def answering(*answers: str) -> tuple[Callable[[], str], list[str]]:
    """Return a function that gives these answers over and over, and the list of those that it has given."""
    given: list[str] = []
    coming: Iterator[str] = cycle(answers)

    def ask() -> str:
        given.append(next(coming))
        return given[-1]

    return ask, given


def world(*, in_turn: bool) -> World:
    return cast(World, SimpleNamespace(in_turn=in_turn))


def test_asking_ends_when_each_backend_has_answered() -> None:
    ask, given = answering("a", "b", "c")
    assert reached(["a", "b", "c"], ask) == given == ["a", "b", "c"] * 2
    ask, given = answering(*"aaaaaaab")
    assert reached(["a", "b"], ask) == given == [*"aaaaaaab"]


def test_asking_ends_even_if_one_never_answers() -> None:
    ask, given = answering("a")
    assert reached(["a", "b"], ask) == given
    assert len(given) == 60


def test_shares_are_equal_only_where_backends_take_turns() -> None:
    assert shared(world(in_turn=True), ["a", "b"], answering("a", "b")[0]) == "connections: {'a': 2, 'b': 2}"
    with pytest.raises(Differs):
        shared(world(in_turn=True), ["a", "b"], answering(*"aaab")[0])
    assert shared(world(in_turn=False), ["a", "b"], answering(*"aaab")[0]) == "reached: ['a', 'b']"


@pytest.mark.parametrize("answers", ["a", "abx"])
def test_a_backend_that_is_missing_or_strange_is_seen(answers: str) -> None:
    for in_turn in (True, False):
        with pytest.raises(Differs):
            shared(world(in_turn=in_turn), ["a", "b"], answering(*answers)[0])


def test_equal_numbers_are_no_turns() -> None:
    _in_turn([*"abcbac"], [*"abc"])
    with pytest.raises(Differs, match="connections 1 to 3: a, a, b"):
        _in_turn([*"aabccb"], [*"abc"])


@pytest.mark.parametrize(("in_turn", "most"), [(True, 0), (False, 1e-3)])
def test_connections_that_are_chosen_anew_cannot_all_be_right(in_turn: bool, most: float) -> None:
    ask, _ = answering("a", "b", "c")
    pairs = SimpleNamespace(
        in_turn=in_turn,
        pair=lambda *_: Pair(cast(Any, None), cast(Any, None), ask()),
    )
    tasks = [each.task for each in World.twins(cast(World, pairs), "c", "web", dict.fromkeys("abc", cast(Any, None)))]
    chosen_anew = cycle("abc")  # from wherever the turns have come to
    by_turns = all(next(chosen_anew) == task for task in tasks)
    assert (float(by_turns) if in_turn else 3.0 ** -len(tasks)) <= most


class Rationed:
    """A socket whose first datagrams get no ICMP error, because the host has sent too many."""

    def __init__(self, silent: int, answer: bytes = b"") -> None:
        self._silent, self._answer = silent, answer

    def settimeout(self, limit: float) -> None:
        pass

    def send(self, data: bytes) -> None:
        self._silent -= 1

    def recv(self, size: int) -> bytes:
        if self._silent >= 0:
            raise TimeoutError
        if self._answer:
            return self._answer
        raise ConnectionRefusedError


def test_a_datagram_may_be_refused_late_but_none_may_be_answered() -> None:
    for silent in (0, 2):
        refused(cast(Any, Rationed(silent)))
    with pytest.raises(Differs, match="silence after 3 datagrams"):
        refused(cast(Any, Rationed(3)))
    with pytest.raises(Differs, match="answered from a closed port"):
        refused(cast(Any, Rationed(1, b"1")))
