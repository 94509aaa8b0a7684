"""docs/adopt.md: the checks on a swarm that was built by hand, with Docker's own command."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplanes import catalog
from scenarios import checks, expectations
from tests.conftest import ROOT
from tests.lab import engines
from tests.program.command import bench
from tests.program.pages import shown

pytestmark = [pytest.mark.swarm, pytest.mark.machine]
LEAST = 60
"""The number of checks that must be observed where nothing is changed."""
NODES = ("one", "two", "three")
PAGE = (ROOT / "docs/adopt.md").read_text("utf-8").partition("\n## A swarm of Docker's\n")[2].partition("\n## ")[0]


class Swarm:
    """The page's swarm: what its user has typed, and what can be seen of it."""

    def __init__(self, started: engines.Engines, directory: Path) -> None:
        self.directory = directory
        self._engines = started
        self.environ = started.environ | {name: str(pid) for name, pid in started.processes.items()}
        for name, text in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", PAGE, re.M | re.S):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        typed = [command for command, _ in shown(PAGE) if not command.startswith("bench ")]
        self.run("sh", "-euxc", "\n".join(typed))

    def run(self, *argv: str) -> str:
        done = subprocess.run(argv, cwd=self.directory, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def docker(self, node: str, *words: str) -> str:
        return self.run("docker", "--host", f"unix:///run/{node}/docker.sock", *words)

    def told(self) -> dict[str, str]:
        """Return what the engines tell: containers, tasks, services, nodes and networks."""
        found = {
            node: self.docker(node, "inspect", *self.docker(node, "ps", "--all", "--quiet").split()) for node in NODES
        }
        every = {"services": ("service", "ls", "--quiet"), "nodes": ("node", "ls", "--quiet")}
        for kind, words in every.items():
            found[kind] = self.docker("one", "inspect", *self.docker("one", *words).split())
        return found

    def programmed(self) -> dict[str, str]:
        """Return what is programmed in each namespace of the nodes: addresses, routes, rules, balancers, settings."""
        found = {}
        for node, pid in self._engines.processes.items():
            sandboxes = Path(f"/proc/{pid}/root", os.readlink(f"/run/{node}").lstrip("/"), "exec/netns")
            for path in (Path(f"/proc/{pid}/ns/net"), *sorted(sandboxes.iterdir())):
                found[f"{node}: {path.name}"] = self.run("nsenter", f"--net={path}", "sh", "-c", _SEEN)
        return found


_SEEN = """
ip -4 -o address; ip -4 route show table all; ip rule
{ ip neigh show nud permanent; bridge fdb show | grep permanent; } | sort
iptables-legacy-save | grep -v '^#' | sed 's/ \\[.*//'; nft list ruleset
awk '{print $1, $2, $3, $4}' /proc/net/ip_vs
grep -rs . /proc/sys/net | grep -v -e nf_conntrack_count -e /sctp/ | sort
"""
"""The settings of SCTP are there from the first socket on, which loads the module (net/sctp/protocol.c)."""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with engines.started(NODES, Path("/run")) as started:
        yield Swarm(started, tmp_path_factory.mktemp("swarm"))


def test_a_swarm_that_was_built_by_hand_is_observed_and_left_as_it_was(swarm: Swarm) -> None:
    before = swarm.told() | swarm.programmed()
    cells = _observed(swarm, "swarm.toml")
    assert _changed(before, swarm.told() | swarm.programmed()) == []
    seen = {name: each for name, each in cells.items() if each["outcome"] in ("pass", "fail")}
    assert {name: each["outcome"] for name, each in seen.items()} == {name: _expected(name) for name in seen}
    assert len(seen) >= LEAST
    assert cells["balance.round-robin"]["detail"] == "connections: {'my-web.1': 20, 'my-web.2': 20, 'my-web.3': 20}"
    assert seen["identity.source-other-node"]["outcome"] == "fail", "a swarm masquerades"
    changing = {name for name, each in checks.known().items() if each.changes}
    assert not changing & seen.keys()
    assert "nothing is changed in a world of others" in cells["change.scale-up"]["reason"]


def test_its_commands_make_scale_and_drain_services_of_the_checks(swarm: Swarm) -> None:
    before = swarm.told()
    cells = _observed(swarm, "operated.toml")
    assert {name: each["outcome"] for name, each in cells.items()} == {name: _expected(name) for name in cells}
    assert cells.keys() == {"change.scale-up", "change.drain", "change.drain-udp", "change.name-follows"}
    assert swarm.told()["services"] == before["services"], "those that were there stay as they are"


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the lines that one of two states does not have."""
    found = [f"{place}: gone or new" for place in before.keys() ^ after.keys()]
    for place in before.keys() & after.keys():
        lines = difflib.ndiff(before[place].splitlines(), after[place].splitlines())
        found += [f"{place}: {line}" for line in lines if line[:1] in "+-"]
    return found


def _expected(name: str) -> str:
    """Return the outcome of a check that is expected of the real swarm that this project starts itself."""
    (selection,) = catalog.select(engines.SWARM)
    return expectations.expected(selection, name, os.uname().release).expected


def _observed(swarm: Swarm, world: str) -> dict[str, dict[str, Any]]:
    """Run the page's command with a world, which says what the page says. Return the cells by the checks' names."""
    ((command, said),) = [each for each in shown(PAGE) if each[0].startswith(f"bench matrix --world {world}")]
    path = swarm.directory / "matrix.json"
    done = bench(*shlex.split(command)[1:], "-o", str(path), timeout=1800, cwd=swarm.directory, **swarm.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said.removeprefix("...\n") in done.stdout
    return {each["check"]: each for each in json.loads(path.read_text("utf-8"))["cells"]}
