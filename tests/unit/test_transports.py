"""A check that sends datagrams says that it needs UDP, so it is not applicable to a plane that serves TCP only."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from dataplanes.errors import Unsupported
from dataplanes.model import Port, Service
from scenarios.checks import CHECKS, Check
from scenarios.lab import Lab
from scenarios.roster import Roster
from scenarios.topology import ServiceSpec

_SENDS = {"heard", "ask_udp", "datagrams", "SOCK_DGRAM"}
_TO_NO_VIP = {"change.name-follows"}  # it asks the resolver


def _names(each: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(each) if isinstance(node, ast.Attribute)} | {
        node.id for node in ast.walk(each) if isinstance(node, ast.Name)
    }


def _sends(check: Check) -> set[str]:
    """Return by what a check sends datagrams: itself, or a function of its module that it calls."""
    module = inspect.getmodule(check.observe)
    assert isinstance(module, ModuleType)
    functions = {
        each.name: each for each in ast.parse(inspect.getsource(module)).body if isinstance(each, ast.FunctionDef)
    }
    seen: set[str] = set()
    left = {check.observe.__name__}
    while left:
        name = left.pop()
        seen.add(name)
        found = _names(functions[name])
        if hit := _SENDS & found:
            return hit
        left |= (found & functions.keys()) - seen
    return set()


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_that_sends_datagrams_says_so(name: str) -> None:
    check = CHECKS[name]
    if "udp" not in check.protocols and name not in _TO_NO_VIP:
        assert _sends(check) == set(), f"{name}: protocols=('udp',)"


def test_one_that_sends_datagrams_is_recognized() -> None:
    assert _sends(CHECKS["reach.udp-everywhere"])
    assert _sends(CHECKS["balance.udp-sticks"])


class _TcpOnly:
    """A plane that serves declared TCP ports."""

    def __init__(self) -> None:
        self.services: list[Service] = []

    def apply(self, services: list[Service]) -> None:
        if any(port.protocol != "tcp" for each in services for port in each.ports):
            raise Unsupported("it serves TCP only")
        self.services = services


def test_a_port_that_is_refused_does_not_stay_declared() -> None:
    """Or else every later change of the service would be refused for it."""
    lab = object.__new__(Lab)
    lab._roster = Roster((Port("tcp", 80),))
    lab._roster.specs["web"] = ServiceSpec("web", "net", vip="10.0.0.2")
    lab.plane = plane = _TcpOnly()  # type: ignore[assignment]
    with pytest.raises(Unsupported):
        lab.declare("web", Port("udp", 53))
    lab.declare("web", Port("tcp", 443))
    assert plane.services[0].ports == (Port("tcp", 80), Port("tcp", 443))
