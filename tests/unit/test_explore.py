"""The model allows what a plane without a fault does, and the search finds each fault by a short sequence."""

from __future__ import annotations

import re
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
from scenarios.checks import CHECKS
from scenarios.explore import operations as do
from scenarios.explore.course import Course, SequenceStep
from scenarios.explore.model import Model, Turns
from scenarios.explore.operations import DONE, SILENCE, AnyOperation, Operations, Sight, told
from scenarios.explore.player import SCENARIO
from scenarios.explore.search import Found, Search
from scenarios.explore.shortest import shortest
from tests.unit import ideal
from tests.unit.test_layers import ROOT

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


def course(*operations: AnyOperation, lacks: tuple[str, ...] = ()) -> Course:
    made = Course(cast("Any", ideal.Ideal()), Model(lacks))
    made.play(operations)
    return made


def after(*operations: AnyOperation, lacks: tuple[str, ...] = (), then: AnyOperation) -> str:
    """Return what the model allows after an operation, when an ideal plane has done what was before."""
    made = course(*operations, lacks=lacks)
    assert len(made.steps) == len(operations), "some make no sense"
    assert not made.failed, made.steps[-1]
    assert made.may(then)
    return told(made.model.allowed(then))


CREATE, CONNECT, ASK = do.Create("web", 2), do.Connect(1, "east", "web"), do.Ask(1, "east", "web")
SPEAK, ANSWER = do.Speak(1, "client"), do.Speak(1, "backend")


CRASH, DRAIN, AGAIN = do.Crash("red"), do.Drain("web", "red"), do.Connect(1, "east", "web", again=True)
ONE = (do.Create("web", 1), do.Add("web", "green"))


@pytest.mark.parametrize(
    ("operations", "known"),
    [
        ((*ONE, CRASH, do.Drain("web", "green"), CONNECT, do.Add("web", "green"), DRAIN), True),
        ((*ONE, do.Stop("red"), do.Drain("web", "green"), CONNECT, do.Add("web", "green"), DRAIN), False),
        ((*ONE, CRASH, do.Drain("web", "green"), CONNECT, do.Add("web", "green"), do.Remove("web", "red")), False),
    ],
    ids=["unanswered", "refused", "removed"],
)
def test_a_drained_backend_may_keep_an_unanswered_connection(operations: Operations, *, known: bool) -> None:
    model = course(*operations).model
    if known:
        assert SILENCE in model.allowed(AGAIN)
        model.take(AGAIN, SILENCE, 15.0)
    model.take(do.Restore("red") if CRASH in operations else do.Start("red"), DONE, 20.0)
    assert (Sight("answered", "red") in model.allowed(AGAIN)) == known


def test_a_container_that_comes_anew_may_have_reset_what_was_sent_again() -> None:
    """Nobody sees when it does. For a while a plane may take a connection from the same port for that one then."""
    moved = (do.Add("web", "green"), do.Remove("web", "red"))
    gone = (do.Create("web", 1), CONNECT, CRASH, SPEAK, do.Restore("red"), *moved)
    assert after(*gone, then=AGAIN).startswith("answered by green or red")
    ended = (do.Create("web", 1), CONNECT, do.Close(1, "backend"), *moved)
    assert after(*ended, then=AGAIN) == "answered by green"


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


# -- statements of the model ------------------------------------------------------------------------------------


def test_a_connection_goes_to_the_backends_that_a_service_has() -> None:
    assert after(then=CONNECT) == "no answer"
    assert after(CREATE, then=CONNECT) == "answered by green or red"
    assert after(CREATE, do.Remove("web", "red"), then=CONNECT) == "answered by green"
    assert after(CREATE, do.Drain("web", "green"), then=CONNECT) == "answered by red"
    assert after(CREATE, do.Drain("web", "green"), do.Drain("web", "red"), then=CONNECT) == "refused"
    assert after(CREATE, do.Stop("red"), then=CONNECT) == "answered by green, or refused"
    told = "answered by green, answered by green when the first packet was sent again, or no answer"
    assert after(CREATE, do.Crash("red"), then=CONNECT) == told


def test_backends_take_turns() -> None:
    other = do.Connect(2, "east", "web")
    assert after(CREATE, CONNECT, then=other) == "answered by green"
    assert after(CREATE, CONNECT, then=do.Connect(2, "west", "web")) == "answered by green or red"
    assert after(CREATE, CONNECT, do.Add("web", "blue"), then=other) == "answered by blue or green"
    made = Model(in_turn=False)
    made.take(CREATE, do.DONE, 0)
    made.take(CONNECT, Sight("answered", "red"), 0)
    assert told(made.allowed(other)) == "answered by green or red"


def test_the_port_of_a_connection_whose_packets_may_still_wait_is_used_for_nothing_else() -> None:
    other, same = do.Connect(1, "east", "red", again=True), do.Connect(1, "east", "web", again=True)
    vain = course(CONNECT)
    assert (vain.may(other), vain.may(same)) == (False, True)
    vain.take(do.Idle(20))
    assert vain.may(other)


def test_a_connection_stays_with_its_backend_until_that_is_removed() -> None:
    assert after(CREATE, CONNECT, do.Add("web", "blue"), do.Drain("web", "red"), then=SPEAK) == "what was sent arrives"
    assert after(CREATE, CONNECT, do.Flush(), then=SPEAK) == "what was sent arrives"
    assert after(CREATE, CONNECT, do.Remove("web", "red"), then=SPEAK) == "a reset"
    lacks = ("change.delete-is-noticed",)
    assert "arrives" in after(CREATE, CONNECT, do.Remove("web", "red"), then=ANSWER)
    made = course(CREATE, CONNECT, do.Remove("web", "red"), lacks=lacks)
    assert told(made.model.allowed(SPEAK)) == "what was sent arrives, a reset, or no answer"
    made = course(CREATE, CONNECT, do.Remove("web", "red"), lacks=("change.delete-is-noticed-afar",))
    assert told(made.model.allowed(SPEAK)) == "a reset, or no answer"


def test_a_udp_flow_stays_and_moves() -> None:
    assert after(CREATE, ASK, then=SPEAK) == "answered by red"
    assert after(CREATE, ASK, then=ANSWER) == "what was sent arrives"
    gone = (CREATE, ASK, do.Remove("web", "red"))
    assert after(*gone, then=SPEAK) == "answered by green, refused, or no answer"
    assert after(*gone, SPEAK, then=SPEAK) == "answered by green"
    stays = course(CREATE, ASK, lacks=("change.udp-moves",))
    stays.take(do.Remove("web", "red"))
    assert told(stays.model.allowed(SPEAK)) == "answered by green or red, refused, or no answer"
    stays.take(do.Delete("web"))
    assert told(stays.model.allowed(SPEAK)) == "answered by red, refused, or no answer"
    assert after(CREATE, ASK, do.Delete("web"), then=SPEAK) == "refused, or no answer"
    assert after(CREATE, ASK, do.Idle(390), then=SPEAK) == "answered by green or red"
    assert "no answer" in after(CREATE, ASK, do.Idle(390), ANSWER, then=ANSWER)


def test_a_backend_answers_late_only_where_it_was_asked() -> None:
    """A socket that was not answered has no backend, even if the one before from the same port had."""
    again = do.Ask(1, "east", "web", again=True)
    answered = course(CREATE, ASK, do.Close(1, "client"), again)
    assert answered.may(ANSWER)
    silent = course(CREATE, ASK, do.Close(1, "client"), do.Stop("red"))
    silent.model.take(again, SILENCE, 0)
    assert not silent.may(ANSWER)


def test_a_new_connection_goes_on_with_the_entry_of_one_that_was_reset() -> None:
    again = do.Connect(1, "east", "web", again=True)
    ended = (CREATE, CONNECT, do.Drain("web", "red"), do.Abort(1, "backend"))
    assert (
        after(*ended, then=again) == "answered by green or red, or answered by red when the first packet was sent again"
    )
    assert after(*ended, do.Idle(20), then=again) == "answered by green"
    removed = (CREATE, CONNECT, do.Remove("web", "red"), do.Abort(1, "backend"))
    assert after(*removed, then=again) == "answered by green"


def test_a_restart_promises_nothing_to_open_flows_and_everything_to_new_ones() -> None:
    assert after(CREATE, CONNECT, do.Restart(), then=SPEAK) == "what was sent arrives, a reset, or no answer"
    assert after(CREATE, ASK, do.Restart(), then=SPEAK) == "answered by green or red, refused, or no answer"
    assert after(CREATE, CONNECT, do.Restart(), then=do.Visit("east", "web")) == "answered by green or red"
    direct = do.Connect(1, "east", "red")
    assert after(direct, do.Restart(), then=SPEAK) == "what was sent arrives"


def test_a_backend_that_answers_itself_may_take_a_turn() -> None:
    """Its segments go to the VIP, as which it knows itself. Once nothing is known of the connection they are new."""
    visit = do.Visit("red", "web")
    lost = (do.Create("web", 1), do.Connect(1, "red", "web"), do.Delete("web"), CREATE, visit, ANSWER)
    assert after(*lost, then=visit) == "answered by green"
    assert after(*lost, lacks=("identity.hairpin-source",), then=visit) == "answered by green or red"


def test_idle_connections_are_kept_as_long_as_the_plane_keeps_them() -> None:
    long = (CREATE, CONNECT, do.Idle(950))
    assert after(*long, then=SPEAK) == "what was sent arrives"
    assert "reset" in after(*long, lacks=("idle.tcp-1000s", "idle.tcp-1h"), then=SPEAK)
    closed = (CREATE, CONNECT, do.HalfClose(1, "client"), do.Idle(150))
    assert after(*closed, then=ANSWER) == "what was sent arrives"
    assert "reset" in after(*closed, lacks=("idle.half-closed",), then=ANSWER)


def test_the_model_names_checks_that_exist() -> None:
    text = (ROOT / "scenarios/explore/model.py").read_text("utf-8")
    named = set(re.findall(r"\b(?:idle|identity|client|server|change|balance)\.[a-z0-9-]+", text))
    named -= {"change.{check}"}
    assert named
    assert {each for each in named if not each.endswith("-")} <= CHECKS.keys()
    assert {f"change.{each}" for each in re.findall(r'"((?:drain-udp|udp-moves)[a-z-]*)"', text)} <= CHECKS.keys()


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
