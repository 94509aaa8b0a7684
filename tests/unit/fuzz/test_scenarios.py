"""Whatever a scenario file holds, it gives a scenario that can be built, or an error that names the file."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplanes.errors import Usage
from scenarios import topology
from scenarios.axes import AXES, POINTS, Axes, Sweep
from scenarios.topology import Filler, Network, Scenario, ServiceSpec, Task, Traffic
from tests.unit.fuzz import samples
from tests.unit.fuzz.ending import end, timed
from tests.unit.fuzz.strategies import mutated, of_type, spoiled, texts, toml

_SECONDS = 1.0
VALID = {name: msgspec.toml.decode(text) for name, text in samples.SCENARIOS.items()}
SMALL = 'nodes = ["a", "b"]\nnetworks = [{ name = "net", subnet = "10.0.0.0/24" }]\n'
WEB = '[[services]]\nname = "web"\nnetwork = "net"\ntasks = [{ node = "a" }]\n'
CALLER = '[[services]]\nname = "caller"\nnetwork = "net"\ntasks = [{ node = "b" }]\n'
WORK = '[traffic]\nclient = "caller.1"\nservice = "web"\n'
EMPTY = b"""nodes = []
networks = []
services = [{ name = "a", network = "net" }]
traffic = { client = "a", service = "a" }
"""
WORLD = SMALL + WEB + CALLER + WORK

_name = st.one_of(
    st.sampled_from(["a", "b", "net", "web", "web.1", "caller.1", "a.net", "underlay", "lb.a.net"]), texts
)
_subnet = st.sampled_from(
    ["10.0.0.0/24", "10.0.0.0/29", "10.0.0.0/8", "0.0.0.0/0", "172.18.0.0/16", "224.0.0.0/8", "x"]
)
_address = st.sampled_from(["", "10.0.0.2", "10.0.0.3", "10.0.0.255", "10.0.0.0", "::1", "1", "10.0.0.03"])
_known = {
    "name": _name,
    "node": st.sampled_from(["a", "b", "c"]),
    "nodes": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
    "network": st.sampled_from(["net", "other"]),
    "subnet": _subnet,
    "vip": _address,
    "address": _address,
    "client": _name,
    "service": _name,
    "replicas": st.sampled_from([0, 1, 5, 250, 251, 1000, 2**62, -1]),
    "count": st.sampled_from([0, 5, 100, 20_001, 10**9, -5]),
    "idlers": st.just([]),
}
extreme = of_type(
    Scenario,
    **{**_known, "networks": st.lists(of_type(Network, **_known), max_size=2)},
    services=st.lists(of_type(ServiceSpec, **_known, tasks=st.lists(of_type(Task, **_known), max_size=3)), max_size=3),
    traffic=of_type(Traffic, **_known),
    filler=of_type(Filler, **_known),
    sweep=st.just([]),
)
_axes = {name: st.lists(st.sampled_from([most, 1, 1]), min_size=1, max_size=3) for name, (_, _, most) in AXES.items()}


@st.composite
def plausible(draw: st.DrawFn) -> dict[str, Any]:
    """Scenarios that somebody might mean, at the limits of what can be built."""
    nodes = [f"n{number}" for number in range(draw(st.sampled_from([1, 2, 3, 10, 100])))]
    names = ["web", "db", "x"][: draw(st.integers(1, 3))]
    services: list[dict[str, Any]] = [{"name": "caller", "network": "net", "tasks": [{"node": nodes[0]}]}]
    for name in names:
        service: dict[str, Any] = {"name": name, "network": draw(st.sampled_from(["net", "net", "side"]))}
        service["vip"] = draw(st.one_of(st.just(""), st.just(""), _address))
        service["replicas"] = draw(st.sampled_from([0, 1, 3, 100, 250, 250, 251]))
        if draw(st.booleans()):
            task = {"node": draw(st.sampled_from(nodes)), "joins": draw(st.sampled_from([{}, {"side": ""}]))}
            service |= {"replicas": 0, "tasks": [task]}
        services.append(service)
    subnets = st.sampled_from(["10.0.0.0/24", "10.0.0.0/16", "10.0.0.0/16", "10.0.0.0/8", "10.0.0.0/29"])
    return {
        "nodes": nodes,
        "networks": [{"name": "net", "subnet": draw(subnets)}, {"name": "side", "subnet": draw(subnets)}],
        "services": services,
        "traffic": {"client": "caller.1", "service": draw(st.sampled_from(names))},
        "idle": draw(st.sampled_from([0, 0, 1, 20, 200])),
        "filler": {"count": draw(st.sampled_from([0, 10, 240, 20_000])), "backends": draw(st.integers(0, 3))},
        "sweep": draw(st.lists(of_type(Sweep, **_axes), max_size=2)),
    }


scenarios = st.one_of(
    plausible().map(toml),
    plausible().map(toml),
    plausible().flatmap(mutated).map(toml),
    st.sampled_from(sorted(VALID)).flatmap(lambda name: mutated(VALID[name])).map(toml),
    extreme.map(toml),
    extreme.flatmap(mutated).map(toml),
    st.sampled_from(sorted(samples.SCENARIOS)).flatmap(lambda name: spoiled(samples.SCENARIOS[name].encode())),
    st.binary(max_size=100),
)
points = st.builds(Axes, **{name: st.sampled_from([least, 1, 3, most]) for name, (_, least, most) in AXES.items()})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the scenario."""
    return tmp_path_factory.mktemp("scenarios") / "any.toml"


@example(data=EMPTY, at=Axes(backends=1))
@given(data=scenarios, at=st.none() | points)
def test_a_scenario_is_one_that_can_be_built_or_is_refused(data: bytes, at: Axes | None, path: Path) -> None:
    path.write_bytes(data)
    with timed() as took:
        world = _loaded(str(path), at)
    assert took() < _SECONDS
    if world:
        _can_be_built(world)


def _loaded(path: str, at: Axes | None) -> Scenario | None:
    """Return the scenario, or None if it is refused."""
    try:
        return topology.load(path, at)
    except Usage as error:
        if not error.where.startswith((path, topology._FILES)):
            raise
        return None


def _can_be_built(world: Scenario) -> None:
    """Check what the lab takes for granted."""
    tasks = [*world.tasks(), *world.idlers]
    subnets = {network.name: IPv4Network(network.subnet) for network in world.networks}
    assert len(tasks) <= 2000
    assert len(world.nodes) <= AXES["nodes"][2]
    assert sum(sweep.count() for sweep in world.sweep) <= POINTS
    assert len({task.name for task in tasks} | set(world.nodes)) == len(tasks) + len(world.nodes)
    taken = [(task.network, task.address) for task in tasks] + [(s.network, s.vip) for s in world.services]
    taken += [each for task in tasks for each in task.joins.items()]
    assert len(set(taken)) == len(taken)
    assert all(IPv4Address(address) in subnets[network] for network, address in taken)
    assert all(task.node in world.nodes for task in tasks)
    crowd = world.service(world.traffic.service).network
    free = subnets[crowd].num_addresses - sum(network == crowd for network, _ in taken)
    assert not world.filler or 0 <= world.filler.count <= free


@given(data=scenarios)
def test_a_run_of_any_scenario_is_planned_or_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    end(["run", "-d", "nft-lb", "-s", str(path), "--kernel", "host", "--clock", "wall", "--dry-run"])


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "nested": ("x = " + "[" * 1000 + "]" * 1000, "any.toml: not a scenario: it is nested too deeply"),
    "digits": ("idle = " + "1" * 5000 + "\n" + WORLD, "the line has 5,007 characters"),
    "a long key": (".".join("a" * 100_000) + " = 1", "any.toml:1: not a scenario: the line has"),
    "not UTF-8": (b"nodes = []\nname = '\xff'", "any.toml:2: not UTF-8 text"),
    "large": ("# \n" * 200_000, "more than 256 KiB"),
    "sweep": (
        WORLD + "[[sweep]]\n" + "".join(f"{name} = {list(range(1, 101))}\n" for name in AXES),
        "sweep[0].services: 100,000,000,000,000 points, more than 500",
    ),
    "sweeps": (WORLD + f"[[sweep]]\nservices = {list(range(400))}\n" * 2, "800 points, more than 500"),
    "filler": (WORLD + "[filler]\ncount = 1_000_000_000\n", "filler.count: 1000000000 is not between 0 and 50,000"),
    "less than nothing": (WORLD + "[filler]\ncount = -5\n", "filler.count: -5 is not between 0 and 50,000"),
    "replicas": (
        WORLD.replace('tasks = [{ node = "a" }]', "replicas = 1300"),
        "services[0].replicas: 1300 is not between 0 and 1,000",
    ),
    "addresses": (
        WORLD + "[filler]\ncount = 1000\n",
        "networks[0].subnet: 10.0.0.0/24 has 253 addresses, and 1,004 are needed for VIPs and containers: a /22",
    ),
    "nodes": (WORLD.replace('["a", "b"]', str([f"n{n}" for n in range(101)])), "nodes: 101 nodes, more than 100"),
    "containers": (
        WORLD.replace('["a", "b"]', str(["a", "b", *(f"n{n}" for n in range(20))])).replace(
            "nodes", "idle = 100\nnodes"
        ),
        "idle: 2,202 containers, more than 2,000",
    ),
    "no hosts": (WORLD.replace("10.0.0.0/24", "224.0.0.0/24"), "224.0.0.0/24 has no addresses for hosts"),
    "the gateway's": (WORLD.replace("10.0.0.0/24", "172.18.4.0/24"), "overlaps 172.18.0.0/16"),
    "a namespace's name": (WORLD.replace('"caller"', '"a.net"').replace("caller.1", "a.net.1"), "already the name of"),
    "filled in": (WORLD.replace("nodes", 'idlers = [{ node = "zzz" }]\nnodes', 1), "idlers: the program fills this in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_world_too_large_or_strange_is_refused_at_its_line(name: str, path: Path) -> None:
    text, told = REFUSED[name]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = end(["run", "-d", "nft-lb", "-s", str(path), "--dry-run"])
    assert done.exit_code == 2
    assert told in done.stderr


def test_what_is_refused_would_else_be_a_world(path: Path) -> None:
    path.write_text(WORLD, "utf-8")
    assert len(list(topology.load(str(path)).tasks())) == 2


@given(at=points)
def test_every_point_of_the_axes_is_a_world_or_is_refused(at: Axes) -> None:
    with timed() as took:
        found = _loaded("scale", at)
    assert took() < _SECONDS
    if found:
        _can_be_built(found)


def test_the_table_traffic_of_version_0_1_is_still_read(path: Path) -> None:
    path.write_text(WORLD.replace("[traffic]", "[workload]"))
    assert topology.load(str(path)).traffic.service == "web"
    path.write_text(WORLD.replace("[traffic]", "[workload]").replace('service = "web"', 'service = "nobody"'))
    with pytest.raises(Usage, match=r"any\.toml:\d+: traffic\.service: no service 'nobody'"):
        topology.load(str(path))
