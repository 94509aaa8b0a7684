"""A planted fault is explained by the story's last line, which names the place of the cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from bench.analysis.story import story
from bench.documents.tracing import Followed, Tracing
from bench.inside import tracing
from bench.report.story import lines
from dataplanes import follower
from dataplanes.ebpf_services import ServiceTable
from dataplanes.follower import Follower
from dataplanes.kernel import conntrack, process, sysctl
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.placed import PlacedPlane
from scenarios.lab import Lab
from tests.lab.conftest import CLIENT, running

LB, OVERLAY, NODE = "lb.worker2.my-network", "worker2.my-network", "worker2"
OCCUPIED = 64


def namespace(lab: Lab, name: str) -> str:
    """Return the whole name of a namespace, with the run's number."""
    return next(whole for _, _, whole in lab.namespaces() if whole.partition("-")[2] == name)


def run_in(lab: Lab, name: str, *argv: str) -> str:
    return process.run(namespace(lab, name), argv)


def _forget_neighbours(lab: Lab, name: str) -> None:
    """Forget the neighbours of a namespace, and the packets that wait for one: the next request would meet them."""
    run_in(lab, name, "ip", "neighbour", "flush", "dev", "eth0")


@contextmanager
def no_source_translation(lab: Lab) -> Iterator[None]:
    run_in(lab, LB, "nft", "flush chain ip vip-my-network nat-postrouting")
    yield


@contextmanager
def a_rule_in_the_wrong_chain(lab: Lab) -> Iterator[None]:
    chain = "chain early { type filter hook prerouting priority -150; ip protocol tcp drop; }"
    run_in(lab, LB, "nft", f"table ip own {{ {chain}; }}")
    yield
    run_in(lab, LB, "nft", "delete table ip own")


@contextmanager
def nobody_answers_arp(lab: Lab) -> Iterator[None]:
    before = sysctl.change(namespace(lab, LB), {"net.ipv4.conf.eth0.arp_ignore": "8"})
    _forget_neighbours(lab, CLIENT)
    yield
    sysctl.change(namespace(lab, LB), before)
    _forget_neighbours(lab, CLIENT)


@contextmanager
def no_neighbour(lab: Lab) -> Iterator[None]:
    lone = lab.containers["lone.1"].endpoints[0]
    run_in(lab, OVERLAY, "ip", "neighbour", "del", lone.address, "dev", "vxlan0")
    _forget_neighbours(lab, LB)
    yield
    known = f"{lone.address} lladdr {lone.mac} dev vxlan0 nud permanent"
    run_in(lab, OVERLAY, "ip", "neighbour", "replace", *known.split())
    _forget_neighbours(lab, LB)


@contextmanager
def an_invalid_segment(lab: Lab) -> Iterator[None]:
    """The answer has flags that no segment may have (net/netfilter/nf_conntrack_proto_tcp.c, tcp_valid_flags)."""
    spoils = "ip saddr 10.0.0.9 tcp flags & (syn | ack) == syn | ack tcp flags set syn | ack | rst"
    run_in(
        lab, LB, "nft", f"table ip own {{ chain early {{ type filter hook prerouting priority -400; {spoils}; }}; }}"
    )
    yield
    run_in(lab, LB, "nft", "delete table ip own")


@contextmanager
def a_full_connection_table(lab: Lab) -> Iterator[None]:
    with Conntrack(namespace(lab, LB)) as table:
        table.occupy(OCCUPIED)
        with conntrack.room(OCCUPIED):
            yield
        table.vacate()


@contextmanager
def a_small_mtu(lab: Lab) -> Iterator[None]:
    run_in(lab, NODE, "ip", "link", "set", "eth0", "mtu", "1000")
    yield
    run_in(lab, NODE, "ip", "link", "set", "eth0", "mtu", "1500")


def _marking(lab: Lab) -> str:
    """Return the rule by which the client's container marks packets to the service."""
    vip = f"-A OUTPUT -d {lab.service('lone').vip}/32"
    rules = run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-S", "OUTPUT").splitlines()
    return next(rule for rule in rules if rule.startswith(vip)).removeprefix("-A OUTPUT ")


@contextmanager
def a_wrong_mark(lab: Lab) -> Iterator[None]:
    rule = _marking(lab).split()
    run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-D", "OUTPUT", *rule)
    run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-A", "OUTPUT", *rule[:-1], "0x999/0xffffffff")
    yield
    run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-D", "OUTPUT", *rule[:-1], "0x999/0xffffffff")


@contextmanager
def a_mark_in_the_wrong_chain(lab: Lab) -> Iterator[None]:
    rule = _marking(lab).split()
    run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-D", "OUTPUT", *rule)
    run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-A", "PREROUTING", *rule)
    yield
    run_in(lab, CLIENT, "iptables-legacy", "-t", "mangle", "-D", "PREROUTING", *rule)


@contextmanager
def no_bridge_netfilter(lab: Lab) -> Iterator[None]:
    before = sysctl.change(namespace(lab, OVERLAY), {"net.bridge.bridge-nf-call-iptables": "0"})
    yield
    sysctl.change(namespace(lab, OVERLAY), before)


@contextmanager
def a_lost_map_entry(lab: Lab) -> Iterator[None]:
    assert isinstance(lab.plane, PlacedPlane)
    table = next(post.director.programmed for post in lab.plane._all_posts() if post.site.node == NODE)
    assert isinstance(table, ServiceTable)
    services = table._maps["services"]
    (vip,) = [key for key, _ in services.items() if ".".join(map(str, key)) == lab.service("lone").vip]
    services.delete([vip])
    yield


class Fault(Struct, frozen=True):
    """A fault that is planted into a lab with a plane, and a request that meets it."""

    plane: str
    plant: Callable[[Lab], AbstractContextManager[None]]
    protocol: str = "tcp"
    service: str = "lone"
    request: bytes = b"w"
    patience: float = 1.5  # seconds; ARP gives up after 3


FAULTS = {
    "SNAT dropped": Fault("nft-lb", no_source_translation),
    "rule in the wrong chain": Fault("nft-lb", a_rule_in_the_wrong_chain),
    "ARP unanswered": Fault("nft-lb", nobody_answers_arp, patience=4),
    "neighbour entry missing": Fault("nft-lb", no_neighbour, patience=4),
    "INVALID segment": Fault("nft-lb", an_invalid_segment),
    "MTU too small": Fault("nft-lb", a_small_mtu, "udp", request=bytes(1200)),
    "connection table full": Fault("nft-lb", a_full_connection_table),
    "wrong mark": Fault("ipvs-container", a_wrong_mark, patience=4),
    "mark in the wrong chain": Fault("ipvs-container", a_mark_in_the_wrong_chain, patience=4),
    "bridge netfilter off": Fault("nft-overlay", no_bridge_netfilter, service="both"),
    "BPF map entry gone": Fault("ebpf-tc", a_lost_map_entry, patience=4),
}
CAUSES = msgspec.toml.decode(Path(__file__).with_name("causes.toml").read_bytes(), type=dict[str, str])
"""Fault -> the place of its cause and the explanation."""


def met(lab: Lab, attached: Follower, fault: Fault) -> Followed:
    """Plant a fault, follow the request that meets it, and mend everything."""
    asked = msgspec.convert({"origin": CLIENT, "service": fault.service, "protocol": fault.protocol}, Tracing)
    assert lab.plane
    try:
        with fault.plant(lab):
            return tracing.follow(lab, asked, attached, fault.request, fault.patience)
    finally:
        lab.plane.resync()
        for _, _, name in lab.namespaces():
            with Conntrack(name) as table:  # an entry of this request would spare the next one the rules
                table.flush({lab.service(fault.service).vip: ()})


Scene = tuple[Lab, Follower]


@pytest.fixture(scope="module")
def scenes() -> Iterator[Callable[[str], Scene]]:
    """Yield a lab with a plane and a follower. There is one at a time: that of the plane that was asked for last."""
    there: dict[str, Scene] = {}
    with ExitStack() as stack:

        def get(plane: str) -> Scene:
            if plane not in there:
                stack.close()
                there.clear()
                lab = stack.enter_context(running(plane, "matrix"))
                there[plane] = lab, stack.enter_context(tracing.attached(lab, follower.of_this_kernel()))
            return there[plane]

        yield get


def _marked(name: str, fault: Fault) -> object:
    """Return the test of a fault. The whole tox has those that need one lab, too."""
    return pytest.param(name, marks=(pytest.mark.trace, *((pytest.mark.lab,) if fault.plane == "nft-lb" else ())))


@pytest.mark.parametrize("name", [_marked(*each) for each in FAULTS.items()])
def test_a_planted_fault_is_explained_by_the_last_line(name: str, scenes: Callable[[str], Scene]) -> None:
    fault = FAULTS[name]
    found = story(met(*scenes(fault.plane), fault))
    *before, last = lines(found, everything=True)
    print("\n".join(before))  # pytest shows it if the test fails
    assert last == f"the cause is at {CAUSES[name]}"
