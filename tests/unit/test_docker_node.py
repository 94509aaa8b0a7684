"""A node's own namespace as dockerd leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplanes.errors import Usage
from scenarios import docker_node, requires, topology

SEED = (Path(topology.__file__).parent / "files" / "seed.toml").read_text("utf-8")


def test_a_node_has_the_tables_and_chains_of_docker() -> None:
    rules = docker_node.rules()
    assert [*rules] == ["nat", "mangle", "filter"]
    assert ":FORWARD DROP" in rules["filter"]
    chains = [line.split()[0][1:] for line in rules["filter"] if line.startswith(":DOCKER")]
    assert chains == ["DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION-STAGE-2", "DOCKER-USER"]
    assert not [line for lines in rules.values() for line in lines if not line.startswith((":", "-A "))]


def test_a_scenario_says_what_its_nodes_are() -> None:
    assert topology.load("seed").node == "bare"
    assert topology.load("docker").node == "docker"
    assert requires.of("seed") == ()
    assert requires.of("docker") == docker_node.REQUIRES


def test_the_subnet_of_docker0_is_taken_where_there_is_docker0() -> None:
    moved = SEED.replace("10.0.0.", "172.17.0.")
    assert topology.parse(moved, "moved.toml").networks[0].subnet == "172.17.0.0/24"
    with pytest.raises(Usage, match=r"moved\.toml:\d+: networks\[0\]\.subnet: 172\.17\.0\.0/24 overlaps"):
        topology.parse('node = "docker"\n' + moved, "moved.toml")


def test_no_other_kind_of_node_is_known() -> None:
    with pytest.raises(Usage, match=r"odd\.toml:1"):
        topology.parse('node = "podman"\n' + SEED, "odd.toml")
