"""A node as dockerd leaves it, held against dockerd itself, and traffic on such nodes."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from bench.prepare import unpacked
from dataplanes import catalog, platforms
from dataplanes.kernel import iptables, process
from scenarios import docker_node, topology
from scenarios.fabric import Fabric
from scenarios.journal import Journal
from scenarios.swarm.node import SwarmNode
from scenarios.swarm.tasks import Orchestrator
from scenarios.topology import ENGINE
from tests.lab.conftest import View, running

PLANES = ("direct", "ipvs-lb", "nft-lb", "nft-overlay", "nft-bridge", "ebpf-tc")


@pytest.mark.swarm
def test_a_daemon_programs_what_such_a_node_has() -> None:
    (selection,) = catalog.select("swarm@20.10")
    unpacked.fetch(catalog.requires(selection))
    platform = platforms.of(selection)
    assert platform
    scenario = topology.load("docker")
    scenario.nodes = scenario.nodes[:1]
    expected = {table: _as_listed(lines) for table, lines in docker_node.rules().items()}
    with Journal() as journal:
        fabric = Fabric(scenario, journal, gateways=False)
        fabric.build()
        name = fabric.host_netns(scenario.nodes[0])
        node = SwarmNode(scenario.nodes[0], name, fabric.address(scenario.nodes[0]), journal)
        try:
            node.start(platform.versions[selection.variant])
            assert node.await_up()["Version"].startswith("20.10.")
            Orchestrator(node.engine).initialize(fabric.address(scenario.nodes[0]), {}, {})
            found = _programmed(name, expected)
            links = process.run(name, ("ip", "-br", "address"))
        finally:
            node.stop()
            fabric.close()
    assert found == expected
    assert re.search(rf"^docker0 .* {ENGINE[1]}/", links, re.M)


def _programmed(name: str, wanted: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return a namespace's rules when they are the wanted ones, or after half a minute: it is done step by step."""
    deadline = time.monotonic() + 30
    while True:
        found = {table: iptables.rules(name, table) for table in wanted}
        if found == wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _as_listed(lines: list[str]) -> list[str]:
    """Return lines of `iptables-save` as `iptables -S` prints them: policies, chains, rules."""
    named = [line[1:].split() for line in lines if line.startswith(":")]
    policies = [f"-P {chain} {policy}" for chain, policy in named if policy != "-"]
    return [*policies, *(f"-N {chain}" for chain, policy in named if policy == "-"), *lines[len(named) :]]


@pytest.mark.parametrize("plane", PLANES)
def test_containers_of_nodes_that_have_its_rules_reach_a_vip(plane: str) -> None:
    with running(plane, "docker") as lab:
        view = View(lab)
        assert ":FORWARD DROP" in process.run(lab.fabric.host_netns("worker2"), ("iptables-legacy-save",))
        targets = ["10.0.0.3", "10.0.0.4", "10.0.0.5"] if plane == "direct" else ["10.0.0.2"] * 3
        assert Counter(view.who(each)[0] for each in targets) == {"1": 1, "2": 1, "3": 1}
        assert view.who_udp(targets[2])[0]
