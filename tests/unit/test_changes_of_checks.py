"""What checks have their testbed do: a change that it does not have is told before a service is made for it."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType

import pytest

from scenarios import checks, topology
from scenarios.checks import CHECKS, Check
from scenarios.checks.world import World
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec

_OPTIONAL = {"apply", "withdraw", "resync", "late", "deaf", "unaware"}
"""Changes of the balancer alone, and of what nodes hear, which a testbed of others seldom has."""


def _methods(code: CodeType, known: dict[str, object]) -> Iterator[str]:
    """Yield the attributes that a function uses, and those of functions of the checks that it calls."""
    for each in dis.get_instructions(code):
        if each.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            yield each.argval
        elif each.opname == "LOAD_GLOBAL":
            called = getattr(known.get(each.argval), "__wrapped__", known.get(each.argval))
            if isinstance(called, FunctionType) and called.__module__.startswith("scenarios.checks."):
                yield from _methods(called.__code__, called.__globals__)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _methods(inner, known)


def _calls(each: Check) -> set[str]:
    assert isinstance(each.observe, FunctionType)
    return {*_methods(each.observe.__code__, each.observe.__globals__)}


@pytest.mark.parametrize("name", sorted(name for name, each in CHECKS.items() if not each.skip))
def test_a_check_that_has_a_service_made_declares_what_it_calls_then(name: str) -> None:
    called = _calls(CHECKS[name])
    assert {*CHECKS[name].changes} == (called & _OPTIONAL if "service" in called else set())


class _Simple(Testbed):
    """A testbed that has services made, and nothing else."""

    def __init__(self) -> None:
        self.scenario = topology.load("matrix")
        self.made: list[str] = []

    def create_service(self, spec: ServiceSpec) -> None:
        self.made.append(spec.name)

    service = services = namespaces = None  # type: ignore[assignment]


@pytest.mark.parametrize("name", sorted(name for name, each in CHECKS.items() if each.changes))
def test_nothing_is_made_for_a_check_that_does_not_apply(name: str) -> None:
    testbed = _Simple()
    (cell,) = checks.observe([CHECKS[name]], World(testbed), "swarm@26.1")
    assert (cell.outcome, testbed.made) == ("skip", [])
    assert cell.detail == f"not applicable: this testbed has no {CHECKS[name].changes[0]}"
