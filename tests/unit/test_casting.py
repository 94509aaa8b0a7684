"""`bench matrix --scenario`: which part of a scenario has which name that checks know, and what no part can be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given

from bench.imports import toml
from dataplanes.errors import Usage
from dataplanes.model import Service
from scenarios import casting, checks, topology
from scenarios.checks import Check
from scenarios.checks.world import World
from scenarios.testbed import Testbed
from tests.unit.fuzz.test_scenarios import scenarios

CHECKS = Path(checks.__file__).parent
SHOP = """
nodes = ["a", "b", "worker1"]
underlay_mtu = 1400
networks = [{ name = "front", subnet = "10.3.0.0/24", mtu = 1350 }, { name = "back", subnet = "10.4.0.0/24" }]
traffic = { client = "cache.1", service = "shop", port = 8080 }

[[services]]
name = "shop"
network = "front"
ports = ["8080/tcp", "53/udp"]
tasks = [{ node = "a" }, { node = "b", weight = 5 }, { node = "a" }]

[[services]]
name = "cache"
network = "front"
tasks = [{ node = "a" }]

[[services]]
name = "mail"
network = "front"
tasks = [{ node = "b" }]

[[services]]
name = "lone"
network = "front"
tasks = [{ node = "b", joins = { back = "" } }, { node = "worker1" }]

[[services]]
name = "db"
network = "back"
tasks = [{ node = "a" }]
"""


def test_the_scenario_of_the_checks_casts_to_itself() -> None:
    found = casting.cast(topology.load("matrix"))
    assert found.missing == {}
    assert {role: own for role, own in found.names.items() if role != own} == {}
    again = topology.load("matrix")
    assert msgspec.to_builtins(found.scenario) == msgspec.to_builtins(again)


def test_each_part_gets_the_name_of_what_it_can_be() -> None:
    found = casting.cast(topology.parse(SHOP, "shop.toml"))
    assert found.names == {
        "my-network": "front",
        "worker1": "b",
        "worker2": "a",
        "manager1": "worker1",
        "my-busybox": "cache",
        "my-busybox.1": "cache.1",
        "lone": "mail",
        "lone.1": "mail.1",
        "visitor": "lone",
        "visitor.1": "lone.2",
        "visitor.2": "lone.1",
        "my-web": "shop",
        "my-web.1": "shop.1",
        "my-web.2": "shop.3",
        "my-web.3": "shop.2",
    }
    assert set(found.missing) == {"side", "both", "both.1", "side-web", "side-web.1"}
    made = found.scenario
    web = made.service("my-web")
    assert [(task.name, task.node, task.weight) for task in web.tasks] == [
        ("my-web.1", "worker2", 1),
        ("my-web.2", "worker2", 1),
        ("my-web.3", "worker1", 1),
    ]
    assert web.ports == ["80/tcp", "80/udp", "8080/tcp", "53/udp"]
    assert (made.underlay_mtu, made.networks[0].mtu, made.traffic.port) == (1400, 1350, 80)
    assert [each.name for each in made.services][-1] == "db"


def test_services_of_checks_have_names_that_nothing_else_keeps() -> None:
    text = SHOP.replace('"mail"', '"probe1"').replace('"db"', '"own-probe2"')
    text += '\n[[services]]\nname = "probe2"\nnetwork = "back"\ntasks = [{ node = "a" }, { node = "a" }]\n'
    made = casting.cast(topology.parse(text, "shop.toml")).scenario
    names = [each.name for each in made.services]
    assert [name for name in names if "probe" in name] == ["own-probe2", "own-own-probe2"]
    assert len({*names, *(task.name for task in made.tasks())}) == len(names) + len(list(made.tasks()))
    created = re.compile(r"""replace\(.*name="([\w-]+)"|Service\("([\w-]+)"|name = f"([^"]+)"$""", re.MULTILINE)
    found = {"".join(each) for path in CHECKS.glob("*.py") for each in created.findall(path.read_text("utf-8"))}
    assert {"probe{next(self._numbers)}", "{probe.name}-heir", "alias", "thief", "twin"} <= found
    named = [re.sub(r"\{.*?name\}", "probe7", re.sub(r"\{next.*?\}", "7", each)) for each in found]
    assert [each for each in named if not casting.is_for_checks(each)] == []


def test_an_outcome_is_told_with_the_scenarios_own_names() -> None:
    found = casting.cast(topology.parse(SHOP, "shop.toml"))
    text = "my-web.3 on worker1 asked lone, answered by lone.1. my-web.30 and lonely are not known"
    assert found.told(text) == "shop.2 on b asked mail, answered by mail.1. my-web.30 and lonely are not known"


def test_what_a_small_scenario_lacks_is_told() -> None:
    text = 'nodes = ["a"]\nnetworks = [{ name = "n", subnet = "10.0.0.0/24" }]\n'
    text += 'services = [{ name = "s", network = "n", replicas = 1 }, { name = "c", network = "n", replicas = 1 }]\n'
    found = casting.cast(topology.parse(text + 'traffic = { client = "c.1", service = "s" }\n', "small.toml"))
    assert found.missing["my-web"] == "s has 1 backend, and the check needs 2"
    assert found.missing["worker1"] == "the scenario has 1 node, and the check needs more"
    assert found.missing["lone"] == "no further service of the client's network has a single backend"


class Lacking(Testbed):
    """A testbed of which something is absent."""

    def __init__(self) -> None:
        self.scenario = topology.load("matrix")
        self.absent, self.containers = {"lone": "there is none", "lone.1": "it is not there", "worker1": "one node"}, {}

    def service(self, name: str) -> Service:
        raise KeyError(name)

    def services(self) -> list[Service]:
        return []

    def namespaces(self) -> list[tuple[str, str, str]]:
        return []


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda world: world.vip("lone"), "there is none"),
        (lambda world: world.tasks("lone"), "there is none"),
        (lambda world: world.address("lone.1"), "it is not there"),
        (lambda world: world.ask("lone.1", "10.0.0.2"), "it is not there"),
        (lambda world: world.demand_apart("lone.1", "my-web.1"), "it is not there"),
        (lambda world: world.service("worker1").__enter__(), "one node"),
    ],
)
def test_a_check_that_asks_for_what_is_absent_is_not_applicable(ask: Callable[[World], str], why: str) -> None:
    (cell,) = checks.observe([Check("a.b", "It holds.", "D1", "matrix", ask)], World(Lacking()), "p")
    assert (cell.outcome, cell.detail) == ("skip", f"not applicable: {why}")


@given(data=scenarios)
def test_any_scenario_casts_to_one_that_can_be_built(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "cast.toml"
    path.write_bytes(data)
    try:
        world = topology.load(str(path))
    except Usage:
        return
    count = len(list(world.tasks()))
    found = casting.cast(world)
    made = topology.parse(toml.text(_without_fillings(found.scenario), ""), str(path))
    assert len(list(made.tasks())) == count
    roles = {"my-web", "lone", "visitor", "worker1", "my-busybox.1", "my-web.3"}
    assert all((role in found.names) != (role in found.missing) for role in roles)


def _without_fillings(made: topology.Scenario) -> topology.Scenario:
    made.idlers, made.idle, made.sweep = [], 0, []
    return made


def test_the_scenario_is_read_before_anything_runs(tmp_path: Path) -> None:
    from bench import api

    with pytest.raises(Usage, match="unknown scenario"):
        api.observe("nft-lb", "same-node", scenario="no-such-scenario", kernel="host")
