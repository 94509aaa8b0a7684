"""The story of a flow names each rewrite where the plane makes it.

`stories.toml` tells what is known of each plane: where it is placed, at which hook it works, and which addresses it
changes, of the request and of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bench.analysis.story import story
from bench.documents.tracing import Story, Tracing
from bench.inside import tracing
from dataplanes import catalog, follower
from dataplanes.kernel.btf import Btf, KernelTypes
from scenarios.lab import Lab
from tests.lab.conftest import CLIENT, running

Known = dict[str, dict[str, list[str]]]
"""Plane -> flow -> the rewrites, and last the answer."""
KNOWN = msgspec.toml.decode(Path(__file__).with_name("stories.toml").read_bytes(), type=Known)
FLOWS = {"remote": (CLIENT, "lone"), "local": (CLIENT, "both"), "hairpin": ("lone.1", "lone")}
pytestmark = pytest.mark.trace


@pytest.fixture(scope="module")
def types() -> KernelTypes:
    return follower.wanted(Btf(Path("/sys/kernel/btf/vmlinux").read_bytes()))


def followed(lab: Lab, origin: str, service: str, protocol: str, types: KernelTypes) -> Story:
    asked = msgspec.convert({"origin": origin, "service": service, "protocol": protocol}, Tracing)
    return story(tracing.follow(lab, asked, types))


def told(found: Story) -> Iterator[str]:
    """Yield a line for each rewrite of the first packet of a direction, and one for the answer."""
    for direction in ("request", "reply"):
        way = next((each for each in found.ways if each.direction == direction), None)
        for hop in way.steps if way else ():
            place = " ".join(filter(None, (direction, hop.namespace, hop.device, hop.hook)))
            ends = [f"{a} -> {b}" for a, b in zip(hop.before, hop.after, strict=True) if a != b]
            if hop.kind != "carried":
                yield chosen(f"{place}: {', '.join(ends) or hop.kind}")
    yield chosen(f"{found.flow.answer}, from {found.flow.source}")


def chosen(line: str) -> str:
    """Return a line without the ports that a plane chooses at random."""
    return re.sub(r":(?!(80|40001)\b)\d+\b", ":*", line)


@pytest.mark.parametrize("plane", KNOWN)
def test_each_rewrite_is_told_where_the_plane_makes_it(plane: str, types: KernelTypes) -> None:
    (selection,) = catalog.select(plane)
    found = {}
    with running(plane, "matrix") as lab:
        for protocol in catalog.protocols(selection)[:2]:
            for name, (origin, service) in FLOWS.items():
                told_of = followed(lab, origin, service, protocol, types)
                assert told_of.flow.lost == 0
                found[f"{name} {protocol}"] = list(told(told_of))
    known = KNOWN[plane]
    assert found == {name: known.get(name) or known[name.partition(" ")[0]] for name in found}
