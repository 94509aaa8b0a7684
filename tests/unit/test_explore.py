"""The model allows what a plane without a fault does, and the search finds each fault by a short sequence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from random import Random
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.documents.exploration import Exploration, Explored, Finding
from bench.report import sequence
from scenarios import topology
from scenarios.explore import operations as do
from scenarios.explore.course import SequenceStep
from scenarios.explore.model import Model, Turns
from scenarios.explore.operations import AnyOperation, Operations, Sight
from scenarios.explore.player import SCENARIO
from scenarios.explore.search import Found, Search
from scenarios.explore.shortest import shortest
from tests.unit import ideal

ALL = [each for kind in do.KINDS for each in do.all_of(kind)]
FAULTS = {
    "round robin begins anew": 7,
    "drains are ignored": 4,
    "a drained backend stays drained": 8,
    "UDP flows stay": 6,
    "connections stay": 4,
    "a flush loses connections": 4,
    "idle connections are forgotten": 4,
}
"""A fault -> the largest number of operations that are needed to see it."""


def searching(fault: str = "", lacks: tuple[str, ...] = (), **more: Any) -> Search:
    lab = cast("Callable[[], AbstractContextManager[Any]]", partial(ideal.lab, fault))
    return Search(lab, lambda: Model(lacks), idles=True, **more)


CREATE, CONNECT, ASK = do.Create("web", 2), do.Connect(1, "east", "web"), do.Ask(1, "east", "web")
SPEAK, ANSWER = do.Speak(1, "client"), do.Speak(1, "backend")


def test_the_model_allows_what_a_plane_without_a_fault_does() -> None:
    with searching() as search:
        assert search.run(seed=1, most=20_000) is None
        assert search.played.operations >= 20_000


@given(st.lists(st.sampled_from(ALL), max_size=60))
def test_any_sequence_can_be_played(operations: Operations) -> None:
    with searching() as search:
        assert all(step.as_expected for step in search.replay(operations))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fault_is_found_by_a_short_sequence(fault: str, seed: int) -> None:
    told: list[Found] = []
    with searching(fault, found=told.append) as search:
        found = search.run(seed, 20_000)
    assert found
    assert found.again == found.times > 0
    assert len(found.steps) <= FAULTS[fault], [step.sentence for step in found.steps]
    lengths = [len(each.steps) for each in told]
    assert lengths == sorted(lengths, reverse=True)
    assert told[-1] == found


def test_a_seed_gives_the_same_sequences() -> None:
    found = []
    for _ in range(2):
        with searching("UDP flows stay") as search:
            found.append((search.run(3, 20_000), search.played.operations, search.played.sequences))
    assert found[0] == found[1]


class Once(ideal.Ideal):
    """A plane that brings what is sent to a wrong backend, once."""

    def __init__(self) -> None:
        super().__init__()
        self.faulty = True

    def play(self, operation: AnyOperation, *, patient: bool) -> Sight:
        if isinstance(operation, do.Speak) and self.faulty:
            self.faulty = False
            return Sight("stray", "red")
        return super().play(operation, patient=patient)


def test_a_sequence_that_does_not_fail_again_is_told_as_it_was_and_the_search_goes_on() -> None:
    plane, told = Once(), list[Found]()
    with Search(lambda: nullcontext(cast("Any", plane)), Model, found=told.append) as search:
        assert search.run(1, 1000) is None
    assert search.played.operations >= 1000
    assert [(found.again, found.times) for found in told] == [(0, 0), (0, 3)]
    assert told[0].steps == told[1].steps


def test_a_sequence_during_which_the_machine_lost_packets_does_not_count() -> None:
    class Disturbed(Once):
        def disturbance(self) -> str:
            return "" if self.faulty or search.played.disturbed else "the table of neighbours was full"

    plane, told = Disturbed(), list[Found]()
    with Search(lambda: nullcontext(cast("Any", plane)), Model, found=told.append) as search:
        assert search.run(1, 1000) is None
    assert (search.played.disturbed, search.played.disturbance) == (1, "the table of neighbours was full")
    assert not told


def test_a_sequence_is_played_again_if_the_machine_lost_packets_meanwhile() -> None:
    class Disturbed(ideal.Ideal):
        def disturbance(self) -> str:
            return "" if search.played.disturbed else "the table of neighbours was full"

    with Search(lambda: nullcontext(cast("Any", Disturbed())), Model) as search:
        assert [step.operation for step in search.replay([CREATE, CONNECT])] == [CREATE, CONNECT]
    assert search.played.disturbed == 1


# -- parts -------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["a", "b", "c", "+", "-"]), max_size=40))
def test_a_balancer_that_goes_on_in_any_order_is_never_wrong(changes: list[str]) -> None:
    """IPVS puts a new backend first, and goes on behind the last one that it chose."""
    order, last, turns, who = ["a", "b"], -1, Turns(), ("east", False)
    turns.known(order)
    for change in changes:
        if change == "+" and len(order) < 3:
            order.insert(0, next(each for each in "abc" if each not in order))
            last += 1
        elif change == "-" and len(order) > 1:
            del order[0]
            last -= 1
        else:
            last = (last + 1) % len(order)
            assert order[last] in turns.due(who)
            turns.taken(who, order[last])
        turns.known(order)


def test_the_shortest_sequence_has_nothing_too_much() -> None:
    needed: Operations = [do.Create("api", 3), do.Drain("api", "green"), do.Connect(3, "west", "api", True)]
    noise: Operations = [do.Resync(), do.Crash("red"), do.Restore("red"), do.Flush()]
    whole = [each for one in needed for each in (*noise, one)]

    def fails(operations: Operations) -> Operations | None:
        kinds: list[type] = [type(each) for each in operations]
        wanted = [kinds.index(type(each)) for each in needed if type(each) in kinds]
        return operations if len(wanted) == 3 and wanted == sorted(wanted) else None

    assert shortest(whole, fails, lambda _: None) == [
        do.Create("web", 1),
        do.Drain("web", "red"),
        do.Connect(1, "east", "web"),
    ]


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=12))
def test_whatever_is_tried_as_a_shorter_sequence_is_one_that_can_be_written_and_read(operations: Operations) -> None:
    def readable(tried: Operations) -> None:
        assert msgspec.json.decode(msgspec.json.encode(tried), type=Operations) == tried

    assert shortest(operations, readable, lambda _: None) == operations


def test_two_operations_that_belong_together_are_left_out_together() -> None:
    whole: Operations = [CREATE, do.Stop("red"), do.Start("red"), CONNECT]

    def fails(operations: Operations) -> Operations | None:
        stopped = do.Stop("red") in operations, do.Start("red") in operations
        return operations if stopped in ((True, True), (False, False)) and CONNECT in operations else None

    assert shortest(whole, fails, lambda _: None) == [CONNECT]


def test_what_happens_many_times_is_random_but_bounded() -> None:
    with searching() as search:
        steps = search._at_random(Random("1/1"))
    assert 0 < len(steps) <= 50


def test_an_operation_is_read_as_it_was_written() -> None:
    data = msgspec.json.encode(ALL)
    assert msgspec.json.decode(data, type=Operations) == ALL
    assert len({each.sentence() for each in ALL}) == len(ALL)


def test_the_scenario_has_the_containers_that_operations_name() -> None:
    known = {task.name for task in topology.load(SCENARIO).tasks()}
    named = {*do.BACKENDS, *(each.client for each in do.all_of(do.Connect) if isinstance(each, do.Connect))}
    assert {f"{each}.1" for each in named} == known


# -- what a person reads ------------------------------------------------------------------------------------------

TOLD = """\
nft-lb: the shortest sequence that is not as expected (5 operations, seen again 3 of 3 times)
  1. The service web is created with red and green.
  2. east asks web by UDP (flow 1).
     seen: answered by red
  3. red is removed from web, and runs on.
  4. The client of flow 1 sends.
     seen: no answer
  5. The client of flow 1 sends.
     expected: answered by green
     seen:     answered by red

nft-lb: not as expected; 1,250 operations in 75 sequences
ebpf-tc: nothing found; 1,000 operations in 60 sequences"""


def test_a_finding_is_told_in_sentences() -> None:
    def step(operation: AnyOperation, expected: str, seen: str, ok: bool = True) -> SequenceStep:
        return SequenceStep(operation, operation.sentence(), expected, seen, ok)

    done = "the change is made"
    steps = [
        step(CREATE, done, done),
        step(ASK, "answered by green or red", "answered by red"),
        step(do.Remove("web", "red"), done, done),
        step(SPEAK, "answered by green, refused, or no answer", "no answer"),
        step(SPEAK, "answered by green", "answered by red", False),
    ]
    explored = [Explored("nft-lb", 1250, 75), Explored("ebpf-tc", 1000, 60)]
    found = Exploration({}, {}, {}, explored, [Finding("nft-lb", steps, 3, 3)])
    assert "\n".join(sequence.lines(found)) == TOLD
