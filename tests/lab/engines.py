"""The machines of a swarm that is built by hand: engines of Docker, each in namespaces of its own.

Everything else is done with Docker's own command, as docs/adopt.md does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from dataplanes import catalog, packages, platforms
from dataplanes.kernel import netns
from scenarios import topology
from scenarios.dns import Resolver
from scenarios.fabric import Fabric
from scenarios.journal import Journal
from scenarios.swarm.node import NAME_SERVER, SwarmNode, inheriting

SWARM = "swarm@20.10"


class Engines(Struct, frozen=True):
    """Engines that run: their processes by the nodes' names, and the environment that has Docker's command."""

    processes: dict[str, int]
    environ: dict[str, str]


@contextmanager
def started(names: Sequence[str], directory: Path) -> Iterator[Engines]:
    """Start an engine for each node, whose socket is NAME/docker.sock in the directory."""
    (selection,) = catalog.select(SWARM)
    platform = platforms.of(selection)
    assert platform
    version = platform.versions[selection.variant]
    scenario = topology.load("matrix")
    scenario.nodes = list(names)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal())
        stack.enter_context(inheriting())
        fabric = Fabric(scenario, journal, gateways=False)
        stack.callback(fabric.close)
        fabric.build()
        resolver = Resolver()
        stack.callback(resolver.close)
        nodes = [SwarmNode(name, fabric.host_netns(name), fabric.address(name), journal) for name in names]
        for node in nodes:
            resolver.add_node(fabric.host_netns(node.name), NAME_SERVER)
            stack.callback(node.stop)
            node.start(version)
        for node in nodes:
            node.await_up()
            os.symlink(journal.scratch(node.name), directory / node.name)
        assert all(netns.exists(fabric.host_netns(name)) for name in names)
        found = {node.name: node._process.pid for node in nodes if node._process}
        yield Engines(found, {**os.environ, **packages.environment(version.packages, os.environ)})
