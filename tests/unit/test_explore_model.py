"""Statements of the model: what may be seen after each operation."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from scenarios.checks import CHECKS
from scenarios.explore import operations as do
from scenarios.explore.course import Course
from scenarios.explore.model import Model
from scenarios.explore.operations import DONE, SILENCE, AnyOperation, Operations, Sight, told
from tests.unit import ideal
from tests.unit.test_layers import ROOT


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
