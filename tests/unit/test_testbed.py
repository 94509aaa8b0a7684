"""Checks know what they run on by its interface only, and what it does not have is not applicable."""

from __future__ import annotations

import ast
import inspect
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

import scenarios.checks
from dataplanes.model import Endpoint, Port, Service
from scenarios import checks, topology
from scenarios.checks import CHECKS, Check, world
from scenarios.checks.surroundings import Surroundings
from scenarios.checks.world import CLIENT, Differs, World
from scenarios.container import Container
from scenarios.lab import Lab
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec, Task
from tests.unit.test_layers import imported

_OF_THE_INTERFACE = {"surroundings.py", "world.py"}
_MODULES = [path for path in Path(scenarios.checks.__file__).parent.glob("*.py") if path.name not in _OF_THE_INTERFACE]
_BEYOND = {"lab", "_testbed", "testbed", "plane", "fabric", "containers", "_container", "endpoints", "roster"}
_BELOW = {f"scenarios.{name}" for name in ("lab", "fabric", "journal", "container", "testbed", "pool", "roster")}
_ALTERS = {"write", "program", "carry_out", "-F"}
"""The names by which checks change what is in a namespace: sysctl.write, iptables.program, nft.carry_out, iptables."""


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: path.name)
def test_a_check_reaches_nothing_beyond_its_world(path: Path) -> None:
    source = path.read_text()
    used = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert used & _BEYOND == set()
    assert [name for _, name in imported(path, source) for each in _BELOW if f"{name}.".startswith(f"{each}.")] == []


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _reached(check: Check) -> set[str]:
    """Return the names that a check uses: itself, or a function of its module that it calls."""
    module = inspect.getmodule(check.observe)
    assert isinstance(module, ModuleType)
    functions = {
        each.name: each for each in ast.parse(inspect.getsource(module)).body if isinstance(each, ast.FunctionDef)
    }
    found: set[str] = set()
    left = {check.observe.__name__}
    while left:
        words = set(_words(functions[left.pop()]))
        left |= (words & functions.keys()) - found
        found |= words
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_asks_before_it_alters_a_namespace(name: str) -> None:
    found = _reached(CHECKS[name])
    assert "alterable" in found or not found & _ALTERS


def test_one_that_alters_is_recognized() -> None:
    for name in ("visible.flush", "reach.strict-rp-filter", "reach.forward-drop", "client.own-notrack"):
        assert _reached(CHECKS[name]) & _ALTERS


class Given(Testbed):
    """A testbed of a single container, which only can be looked at."""

    reasons: ClassVar[Mapping[str, str]] = {"scale": "nobody here scales"}

    def __init__(self) -> None:
        endpoint = Endpoint(CLIENT, "net", "n1", "ns", "eth9", "10.0.0.7", "", "", "")
        container = Container(Task(CLIENT, "n1", "10.0.0.7", "my-busybox", "net"), "ns")
        container.endpoints.append(endpoint)
        self.containers = {CLIENT: container}
        self.scenario = topology.load("matrix")
        self.settlings = 0

    def service(self, name: str) -> Service:
        return Service(name, "net", "10.0.0.6", (), (Port("tcp", 80),))

    def services(self) -> list[Service]:
        return [self.service("my-busybox")]

    def namespaces(self) -> list[tuple[str, str, str]]:
        return [("container", "n1", "ns")]

    def settled(self) -> None:
        self.settlings += 1


_CHANGES: list[Callable[[World], object]] = [
    lambda world: world.create(ServiceSpec("web", "net")),
    lambda world: world.remove("web"),
    lambda world: world.scale("web", 2),
    lambda world: world.drain(CLIENT),
    lambda world: world.remove_task(CLIENT),
    lambda world: world.crash(CLIENT),
    lambda world: world.stop_server(CLIENT),
    lambda world: world.apply([]),
    lambda world: world.withdraw([]),
    lambda world: world.resync(),
    lambda world: world.reinstall(),
    lambda world: world.flush(),
    lambda world: world.alterable(["ns"]),
    lambda world: world.listen_in("ns", 9000),
    lambda world: world.declare(CLIENT, 9000),
    lambda world: world.ask_from_behind(CLIENT, "10.0.0.2"),
    lambda world: world.hosts(),
    lambda world: world.node_namespace("n1"),
    lambda world: world.address("my-web.1"),
    lambda world: world.handle("my-web.1", 1),
    lambda world: world.service("n1").__enter__(),
]


@pytest.mark.parametrize("change", _CHANGES)
def test_what_a_testbed_does_not_have_is_not_applicable(change: Callable[[World], object]) -> None:
    check = Check("a.b", "It holds.", "D1", "seed", lambda world: str(change(world)))
    (cell,) = checks.observe([check], World(Given()), "given")
    assert cell.outcome == "skip"
    assert cell.detail.startswith("not applicable: ")
    assert len(cell.detail) > len("not applicable: ")


def test_the_reason_is_the_testbed_s_own() -> None:
    check = Check("a.b", "It holds.", "D1", "seed", lambda world: str(_CHANGES[2](world)))
    (cell,) = checks.observe([check], World(Given()), "given")
    assert cell.detail == "not applicable: nobody here scales"


def test_what_a_testbed_has_can_be_asked() -> None:
    world = World(Given())
    assert (world.address(CLIENT), world.interface(CLIENT), world.netns(CLIENT)) == ("10.0.0.7", "eth9", "ns")
    assert world.vip("my-busybox") == "10.0.0.6"
    assert world.tasks("my-busybox") == [CLIENT]
    world.declare(CLIENT, 80)  # it is declared already
    world.mend()


class Slow(Given):
    """A testbed whose changes take effect later."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def create_service(self, spec: ServiceSpec) -> None:
        self.made.append(spec.name)

    def remove_service(self, name: str) -> None:
        self.made.append(name)

    def scale(self, name: str, replicas: int) -> None:
        self.made.append(name)

    def apply(self, services: Sequence[Service]) -> None:
        self.made.append("apply")

    withdraw = apply

    def drain(self, task: str) -> None:
        self.made.append(task)

    remove_task = crash = stop_server = drain

    def resync(self) -> None:
        self.made.append("resync")

    reinstall = resync


@pytest.mark.parametrize("change", _CHANGES[:11])
def test_a_change_is_in_effect_when_the_check_goes_on(change: Callable[[World], object]) -> None:
    slow = Slow()
    change(World(slow))
    assert (len(slow.made), slow.settlings) == (1, 1)


def test_the_lab_has_everything_that_the_interface_has() -> None:
    optional = {name for name, value in vars(Testbed).items() if "not_applicable" in _code(value)} - {"not_applicable"}
    assert len(optional) > 10
    assert {name for name in optional if getattr(Lab, name) is getattr(Testbed, name)} == set()
    assert {name for name in vars(Surroundings) if name in vars(World)} == {"__init__", "__module__", "__doc__"}


def _code(value: object) -> tuple[str, ...]:
    return value.__code__.co_names if inspect.isfunction(value) else ()


class _Closing:
    """A socket whose last segment is acknowledged when its state has been asked for some times."""

    def __init__(self, unacknowledged: int) -> None:
        self._left = unacknowledged

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR

    def getsockopt(self, *_: int) -> bytes:
        self._left -= 1
        return b"\x09" if self._left >= 0 else b"\x07"  # LAST_ACK, CLOSE


def test_a_port_is_used_again_only_when_it_is_free() -> None:
    """Where programs forward packets, a connection has not ended when its socket is closed."""
    closing = _Closing(3)
    world.finish(closing)  # type: ignore[arg-type]
    assert closing._left == -1


def test_an_end_that_nobody_acknowledges_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TIMEOUT", 0.01)
    with pytest.raises(Differs, match="is not acknowledged"):
        world.finish(_Closing(1 << 30))  # type: ignore[arg-type]
