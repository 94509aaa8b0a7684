"""The story of a flow names each rewrite where the plane makes it, and a fault where it is.

`stories.toml` tells what is known of each plane: where it is placed, at which hook it works, and which addresses it
changes, of the request and of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from bench.analysis.story import story
from bench.documents.tracing import Story, Tracing
from bench.inside import tracing
from dataplanes import catalog, follower
from dataplanes.kernel import process
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


LB = "lb.worker2.my-network"


def last(found: Story) -> str:
    """Return the line about the end of the last way that did not arrive."""
    way = [each for each in found.ways if each.end.kind != "arrived"][-1]
    end = way.end
    return " ".join(filter(None, (way.direction, end.namespace, end.device, end.hook, end.kind, end.reason, end.by)))


def run_in(lab: Lab, namespace: str, *argv: str) -> None:
    name = next(name for _, _, name in lab.namespaces() if name.partition("-")[2] == namespace)
    process.run(name, argv)


def no_source_translation(lab: Lab) -> None:
    run_in(lab, LB, "nft", "flush chain ip vip-my-network nat-postrouting")


def a_dropping_rule(lab: Lab) -> None:
    chain = "chain forward { type filter hook forward priority 0; ip protocol udp drop; }"
    run_in(lab, LB, "nft", f"table ip own {{ {chain} }}")


def a_rule_in_the_wrong_chain(lab: Lab) -> None:
    chain = "chain early { type filter hook prerouting priority -150; ct state new drop; }"
    run_in(lab, LB, "nft", f"table ip own {{ {chain} }}")


def no_neighbour(lab: Lab) -> None:
    address = lab.containers["lone.1"].task.address
    run_in(lab, "worker2.my-network", "ip", "neighbour", "del", address, "dev", "vxlan0")


def no_server(lab: Lab) -> None:
    lab.stop_server("lone.1")


FAULTS: dict[str, tuple[Callable[[Lab], None], str]] = {
    "no SNAT": (no_source_translation, f"reply {CLIENT} eth0 dropped NO_SOCKET"),
    "a rule that drops": (a_dropping_rule, f"request {LB} eth0 FORWARD dropped NETFILTER_DROP nft own forward"),
    "a rule in the wrong chain": (
        a_rule_in_the_wrong_chain,
        f"request {LB} eth0 PREROUTING dropped NETFILTER_DROP nft own early",
    ),
    "no neighbour entry": (no_neighbour, f"request {LB} eth0 dropped NEIGH_FAILED"),
    "no server": (no_server, "request lone.1 eth0 dropped NO_SOCKET"),
}
"""A planted fault, and the last line that tells its place."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_told_by_the_last_line(fault: str, types: KernelTypes) -> None:
    plant, place = FAULTS[fault]
    with running("nft-lb", "matrix") as lab:
        plant(lab)
        found = followed(lab, CLIENT, "lone", "udp", types)
    assert not found.flow.answered
    assert last(found) == place
