"""The checks can fail. Each plane is broken in eight or more ways, and each time the right check fails.

First a plane is told something else than the lab's state. Then a plane that knows the true state loses something it
needs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from msgspec.structs import replace

from bench.inside import trial
from dataplanes import catalog, classifiers, ebpf_services
from dataplanes.base import Counter, DataPlane, Footprint
from dataplanes.bridge_connections import BridgeConnections
from dataplanes.kernel import conntrack, iptables, process, sysctl
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.netlink import Request
from dataplanes.model import Backend, Endpoint, Segment, Service
from dataplanes.placed import PlacedPlane
from dataplanes.selection import Selection
from dataplanes.vips import Addresses
from scenarios import checks, topology
from scenarios.checks import world
from scenarios.fabric import Fabric
from scenarios.journal import Journal
from scenarios.lab import Lab
from tests.lab.test_seed import SERVING

Change = Callable[["Mutant", Sequence[Service]], Sequence[Service]]
Damage = Callable[[Lab, ExitStack], None]


class Mutant(DataPlane):
    """A plane that is told something else than the lab's state."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self.name = plane.name
        self.before: dict[str, Service] = {}
        self.change: Change = lambda mutant, services: services
        self.forgets_removal = False
        self.absent = ""  # a node on which nothing is programmed

    def add_segment(self, segment: Segment) -> None:
        if segment.node != self.absent:
            self.plane.add_segment(segment)

    def add_endpoint(self, endpoint: Endpoint) -> None:
        if endpoint.node != self.absent:
            self.plane.add_endpoint(endpoint)

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        self.plane.remove_endpoint(endpoint)

    def apply(self, services: Sequence[Service]) -> None:
        self.plane.apply(self.change(self, services))
        self.before.update((service.name, service) for service in services)

    def remove(self, services: Sequence[Service]) -> None:
        if not self.forgets_removal:
            self.plane.remove(services)

    def resync(self) -> None:
        self.plane.resync()

    def deafen(self, node: str) -> None:
        self.plane.deafen(node)

    def hear(self, node: str) -> None:
        self.plane.hear(node)

    def catch_up(self, node: str) -> None:
        self.plane.catch_up(node)

    def counters(self) -> list[Counter]:
        return self.plane.counters()

    def footprint(self) -> list[Footprint]:
        return self.plane.footprint()

    def close(self) -> None:
        self.plane.close()

    def release(self) -> None:
        self.plane.release()


def _backends(change: Callable[[tuple[Backend, ...]], tuple[Backend, ...]]) -> Change:
    return lambda mutant, services: [replace(each, backends=change(each.backends)) for each in services]


def _with_a_stranger(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    stranger = Backend("10.0.0.9")
    return backends if stranger in backends else (*backends, stranger)


def _swap_vips(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    vips = {each.name: each.vip for each in services}
    if {"lone", "visitor"} <= vips.keys():
        vips["lone"], vips["visitor"] = vips["visitor"], vips["lone"]
    return [replace(each, vip=vips[each.name]) for each in services]


def _only_additions(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    def merged(each: Service) -> Service:
        old = mutant.before.get(each.name, each).backends
        new = {backend.address for backend in each.backends}
        return replace(each, backends=(*each.backends, *(b for b in old if b.address not in new)))

    return [merged(each) for each in services]


def _no_updates(mutant: Mutant, services: Sequence[Service]) -> Sequence[Service]:
    return [mutant.before.get(each.name, each) for each in services]


MUTATIONS: dict[str, tuple[str, Callable[[Mutant], None]]] = {
    "a backend is forgotten": (
        "balance.round-robin",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: all_[:-1] or all_)),
    ),
    "a stranger is among the backends": (
        "balance.round-robin",
        lambda mutant: setattr(mutant, "change", _backends(_with_a_stranger)),
    ),
    "two services' VIPs are swapped": ("reach.other-service", lambda mutant: setattr(mutant, "change", _swap_vips)),
    "a removed backend stays": ("change.new-avoid-removed", lambda mutant: setattr(mutant, "change", _only_additions)),
    "a new backend is not told": ("change.scale-up", lambda mutant: setattr(mutant, "change", _no_updates)),
    "draining is ignored": (
        "change.drain",
        lambda mutant: setattr(mutant, "change", _backends(lambda all_: tuple(Backend(b.address) for b in all_))),
    ),
    "a removed service stays": ("change.leaves-nothing", lambda mutant: setattr(mutant, "forgets_removal", True)),
    "one node is not programmed": ("reach.node-without-backend", lambda mutant: setattr(mutant, "absent", "manager1")),
}
"""What is broken -> the check that must fail, and the way in which it is broken."""


_WITHOUT_TURNS = "balance.round-robin", "reach.node-without-backend"
"""A check that fails on every plane that chooses at random, and the one that takes its place there."""


class Bench:
    """A lab whose plane can be broken again and again."""

    def __init__(self) -> None:
        self.breaks: Callable[[Mutant], None] = lambda mutant: None
        self.mutant: Mutant
        self.lab: Lab

    def make(self, selection: Selection, journal: Journal, lab: Lab) -> DataPlane:
        self.mutant = Mutant(catalog.make(selection, lab, journal))
        self.breaks(self.mutant)
        return self.mutant


@pytest.fixture(
    scope="module",
    params=[*SERVING, "ipvs-lb-dsr", "kube-iptables", "kube-nftables", "kube-nftables@one-map", "moby-nftables"],
)
def broken(request: pytest.FixtureRequest) -> Iterator[Bench]:
    (selection,) = catalog.select(request.param)
    made = Bench()
    with (
        Journal() as journal,
        trial.build(
            topology.load("matrix"), selection, journal, make=partial(made.make, selection, journal)
        ) as made.lab,
    ):
        yield made


def observe(broken: Bench, name: str) -> None:
    """Demand that a check fails. On a plane that chooses at random it may miss what is broken, but not every time."""
    for _ in range(1 if broken.lab.in_turn else 8):
        (cell,) = checks.observe([checks.CHECKS[name]], world.World(broken.lab), broken.mutant.name)
        if cell.outcome == "fail":
            return
    raise AssertionError(f"{name}: {cell.outcome}: {cell.detail}")


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_right_cell_turns_red(broken: Bench, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TIMEOUT", 3.0)
    name, broken.breaks = MUTATIONS[mutation]
    broken.lab.reinstall()
    observe(broken, name if broken.lab.in_turn else name.replace(*_WITHOUT_TURNS))


def _without_ipvs_rules(table: str, chain: str, part: str, lab: Lab, undo: ExitStack) -> None:
    found = 0
    for _, _, name in lab.namespaces():
        rules = process.run(name, ("iptables-legacy", "-t", table, "-S", chain), accept=(0, 1)).splitlines()
        for rule in [each for each in rules if part in each]:
            process.run(name, ("iptables-legacy", "-t", table, *rule.replace("-A", "-D", 1).split()))
            found += 1
    assert found


def _without_nft_rules(chain: str, lab: Lab, undo: ExitStack) -> None:
    found = 0
    for _, _, name in lab.namespaces():
        for table in re.findall("table ip (vip-.*)", process.run(name, ("nft", "list", "tables"))):
            process.run(name, ("nft", "flush", "chain", "ip", table, chain))
            found += 1
    assert found


def _without_bridge(what: str, lab: Lab, undo: ExitStack) -> None:
    """Flush a chain or a set of the bridge: `chain NAME`, `set NAME`."""
    kind, name = what.split()
    found = 0
    for _, _, netns in lab.namespaces():
        for table in re.findall("table bridge (vip-.*)", process.run(netns, ("nft", "list", "tables"))):
            process.run(netns, ("nft", "flush", kind, "bridge", table, name))
            found += 1
    assert found


def _with_sysctl(kind: str, key: str, value: str, lab: Lab, undo: ExitStack) -> None:
    names = [name for found, _, name in lab.namespaces() if found == kind]
    assert {sysctl.value(name, key) for name in names} - {value}
    for name in names:
        sysctl.write(name, {key: value})


def _keeping_connections(lab: Lab, undo: ExitStack) -> None:
    patch = undo.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(Conntrack, "flush", lambda self, keep, protocol=None: 0)
    patch.setattr(BridgeConnections, "flush", lambda self, keep: 0)
    patch.setattr(ebpf_services.ServiceTable, "_forget_flows", lambda self, lost: None)


def _removing_too_much(lab: Lab, undo: ExitStack) -> None:
    """Have the plane remove every service that shares a backend with one that is removed."""

    def remove(mutant: Mutant, services: Sequence[Service]) -> None:
        gone = {backend.address for service in services for backend in service.backends}
        mutant.plane.remove(
            [each for each in mutant.before.values() if gone & {backend.address for backend in each.backends}]
        )

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Mutant, "remove", remove)


def _without_a_network(lab: Lab, undo: ExitStack) -> None:
    for kind, _, name in lab.namespaces():
        if kind == "lb" and "vip-side" in process.run(name, ("nft", "list", "tables")):
            process.run(name, ("nft", "delete", "table", "ip", "vip-side"))


def _with_first_answers_lost(lab: Lab, undo: ExitStack) -> None:
    """Of the answers to a client's first segments, the first one of each connection is lost.

    An answer that comes late for an earlier test's connection does not count.
    """
    name = lab.containers[world.CLIENT].netns
    hook = "{ type filter hook input priority -300; }"
    ports = "{ type inet_service; flags dynamic; size 65535; }"
    rule = "tcp flags & (syn | ack) == syn | ack tcp dport != @answered add @answered { tcp dport } drop"
    lines = f"add set ip loss answered {ports}; add chain ip loss input {hook}; add rule ip loss input {rule}"
    process.run(name, ("nft", f"add table ip loss; {lines}"))
    undo.callback(process.run, name, ("nft", "delete", "table", "ip", "loss"))


def _without_programs(lab: Lab, undo: ExitStack) -> None:
    assert [each for _, _, name in lab.namespaces() for each in classifiers.detach_all(name)]


def _with_a_second_owner(lab: Lab, undo: ExitStack) -> None:
    (endpoint,) = (each for each in lab.containers["both.1"].endpoints if each.network == "my-network")
    vips = [lab.service("lone").vip]
    Addresses().own(endpoint.netns, endpoint.interface, vips)
    undo.callback(Addresses().disown, endpoint.netns, endpoint.interface, vips)


def _never_hearing(lab: Lab, undo: ExitStack) -> None:
    """A node that has not heard of a change hears of none ever again."""
    patch = undo.enter_context(pytest.MonkeyPatch.context())
    for name in ("hear", "catch_up"):
        patch.setattr(PlacedPlane, name, lambda self, node: None)


def _never_told_where(lab: Lab, undo: ExitStack) -> None:
    @contextmanager
    def unaware(self: Fabric, node: str) -> Iterator[None]:
        self._kept[node] = []
        yield
        del self._kept[node]

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Fabric, "unaware", unaware)


def _without_containers_of_late_nodes(lab: Lab, undo: ExitStack) -> None:
    add = PlacedPlane.add_endpoint

    def add_unless_late(self: PlacedPlane, endpoint: Endpoint) -> None:
        if endpoint.node not in self._deaf:
            add(self, endpoint)

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(PlacedPlane, "add_endpoint", add_unless_late)


def _with_tracking(lab: Lab, undo: ExitStack) -> None:
    """Connection tracking follows the packets in the overlay namespaces."""
    for kind, _, name in lab.namespaces():
        if kind == "overlay":
            sysctl.write(name, {"net.bridge.bridge-nf-call-iptables": "1"})
            lines = "add chain ip tracking forward { type filter hook forward priority 0; }"
            lines += "; add rule ip tracking forward ct state new accept"
            process.run(name, ("nft", f"add table ip tracking; {lines}"))
            undo.callback(process.run, name, ("nft", "delete", "table", "ip", "tracking"))


def _with_room_made_for_others(lab: Lab, undo: ExitStack) -> None:
    """Connections that are established lose their entries to those that fill the table."""
    occupy = Conntrack.occupy

    def occupy_all(self: Conntrack, entries: int) -> None:
        self._netlink.send([Request(conntrack._DELETE, 0, conntrack._IPV4)])
        occupy(self, entries)

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Conntrack, "occupy", occupy_all)


def _tracking_nothing_without_the_resolver(lab: Lab, undo: ExitStack) -> None:
    """With the rules of the resolver a container loses connection tracking."""
    program = iptables.program

    def program_and_exempt(name: str, table: str, lines: Sequence[str]) -> None:
        program(name, table, lines)
        if lines[0].startswith("-D"):
            chain = "add table ip own; add chain ip own output { type filter hook output priority raw; }"
            process.run(name, ("nft", f"{chain}; add rule ip own output notrack"))

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(iptables, "program", program_and_exempt)


def _of(planes: str, damage: Damage) -> dict[str, Damage]:
    return dict.fromkeys(planes.split(), damage)


_KUBE_NFT = "kube-nftables kube-nftables@one-map"
_no_ipvs_snat = partial(_without_ipvs_rules, "nat", "POSTROUTING", "--ipvs -j SNAT")
_no_output_marks = partial(_without_ipvs_rules, "mangle", "OUTPUT", "-j MARK")
_no_nft_snat = partial(_without_nft_rules, "nat-postrouting")
_no_bridge_netfilter = partial(_with_sysctl, "overlay", "net.bridge.bridge-nf-call-iptables", "0")
_no_expiry: dict[str, Damage] = {
    plane: partial(_with_sysctl, kind, "net.ipv4.vs.expire_nodest_conn", "0")
    for plane, kind in (("ipvs-container", "container"), ("ipvs-lb", "lb"), ("kube-ipvs", "host"))
}

DAMAGES: dict[str, tuple[str, dict[str, Damage]]] = {
    "no SNAT": (
        "reach.same-node",
        _of("ipvs-lb@iptables ipvs-host@iptables", _no_ipvs_snat)
        | _of("ipvs-lb nft-lb nft-host", _no_nft_snat)
        | _of(_KUBE_NFT, partial(_without_nft_rules, "masquerading"))
        | _of("moby-nftables", partial(_without_nft_rules, "postrouting"))
        | _of("kube-iptables kube-ipvs", partial(_without_ipvs_rules, "nat", "KUBE-POSTROUTING", "MASQUERADE")),
    ),
    "no dispatch": (
        "reach.same-node",
        _of(_KUBE_NFT, partial(_without_nft_rules, "services"))
        | _of("moby-nftables", partial(_without_nft_rules, "prerouting"))
        | _of("kube-iptables", partial(_without_ipvs_rules, "nat", "KUBE-SERVICES", "-j KUBE-SVC")),
    ),
    "no filter": (
        "visible.host-service",
        _of("kube-ipvs", partial(_without_ipvs_rules, "filter", "KUBE-IPVS-FILTER", "-j REJECT")),
    ),
    "no refusing": ("reach.closed-port", _of(_KUBE_NFT, partial(_without_nft_rules, "cluster-ips-check"))),
    "no SNAT, as in 1.12.0": ("identity.other-replica", _of("ipvs-container", _no_ipvs_snat)),
    "no SNAT of hairpins": (
        "identity.hairpin",
        {
            "ipvs-overlay@iptables": _no_ipvs_snat,
            "nft-overlay": _no_nft_snat,
            "nft-bridge": partial(_without_bridge, "set hairpins"),
            "ipvs-overlay": partial(_without_nft_rules, "leaving"),
            "ipvs-overlay@port": partial(_without_nft_rules, "coming"),
        },
    ),
    "no marks": (
        "reach.same-node",
        _of(
            "ipvs-lb@iptables ipvs-lb-dsr@iptables ipvs-overlay@iptables ipvs-host@iptables",
            partial(_without_ipvs_rules, "mangle", "INPUT", "-j MARK"),
        )
        | _of("ipvs-lb ipvs-overlay", partial(_without_nft_rules, "marking")),
    ),
    # The VIP is also on its tasks' eth0: without marks one of them answers everything.
    "no marks in the container": ("balance.round-robin", _of("ipvs-container", _no_output_marks)),
    "no bridge netfilter": ("reach.same-node", _of("ipvs-overlay nft-overlay", _no_bridge_netfilter)),
    "no rules at the bridge": ("reach.same-node", _of("nft-bridge", partial(_without_bridge, "chain frames"))),
    "no rules for replies": ("reach.same-node", _of("nft-bridge", partial(_without_bridge, "chain to-client"))),
    "no MACs": ("reach.other-node", _of("nft-bridge", partial(_without_bridge, "map macs"))),
    "no rules for errors": ("icmp.port-unreachable", _of("nft-bridge", partial(_without_bridge, "chain errors"))),
    "no rules for fragments": ("icmp.fragments", _of("nft-bridge", partial(_without_bridge, "chain fragmented"))),
    "no rules for what ends": ("client.resets", _of("nft-bridge", partial(_without_bridge, "chain resetting"))),
    "no programs": ("reach.same-node", _of("ebpf-tc ebpf-redirect", _without_programs)),
    "connections to a removed backend are kept": (
        "change.udp-moves",
        _of(
            f"nft-container nft-lb nft-overlay nft-bridge nft-host ebpf-tc ebpf-redirect kube-iptables {_KUBE_NFT}",
            _keeping_connections,
        )
        | _no_expiry,
    ),
    "connections to a removed backend are kept, and nobody answers": (
        "change.udp-one-way",
        _of("nft-lb nft-bridge ebpf-tc kube-nftables", _keeping_connections),
    ),
    "connections to a removed backend are kept, and a stranger has its address": (
        "change.address-reused",
        _of("nft-lb nft-bridge ebpf-tc kube-nftables", _keeping_connections),
    ),
    # kube-ipvs has conn_reuse_mode=1, so it schedules a new connection from such a port anew in any case.
    "connections of a drained backend are used again": (
        "change.port-after-drain",
        {plane: _no_expiry[plane] for plane in ("ipvs-container", "ipvs-lb")},
    ),
    "a removed service takes along those with the same backends": (
        "change.shared-backends",
        _of("nft-lb ebpf-tc", _removing_too_much),
    ),
    "a network has lost its services": ("reach.both-networks", _of("nft-lb", _without_a_network)),
    "connections that found no service are kept": (
        "change.udp-before-service",
        _of("nft-container", _keeping_connections),
    ),
    "a late node never hears": ("node.late-backend", _of("ipvs-lb nft-lb nft-bridge ebpf-tc", _never_hearing)),
    "a late node never hears of a removal": ("node.late-removal", _of("ipvs-lb nft-bridge ebpf-tc", _never_hearing)),
    "a late node never hears whose a VIP is": ("node.late-vip-reused", _of("nft-lb ebpf-tc", _never_hearing)),
    "a node that has lost a change hears of none": ("node.lost-change", _of("nft-lb ebpf-tc", _never_hearing)),
    "a resync tells a node nothing": ("node.lost-change-resync", _of("nft-lb ebpf-tc", _never_hearing)),
    "a late node attaches no containers": (
        "node.late-at-the-backend",
        _of("ipvs-lb-dsr", _without_containers_of_late_nodes),
    ),
    "a node never hears where a backend is": ("node.late-location", _of("nft-lb ebpf-redirect", _never_told_where)),
    "the node's own packets are not dispatched": (
        "reach.node-process",
        _of(_KUBE_NFT, partial(_without_nft_rules, "nat-output"))
        | _of("kube-iptables", partial(_without_ipvs_rules, "nat", "OUTPUT", "KUBE-SERVICES")),
    ),
    "connection tracking goes with the resolver's rules": (
        "client.own-resolver",
        _of("nft-container", _tracking_nothing_without_the_resolver),
    ),
    "new connections need an entry": ("node.full-table", _of("ipvs-overlay ebpf-tc", _with_tracking)),
    "a full table drops established connections": (
        "node.full-table-established",
        _of("nft-lb", _with_room_made_for_others),
    ),
    "another container has the VIP, too": (
        "visible.arp",
        # one plane of each placement and of each way to own a VIP; 6 s each
        _of("ipvs-lb ipvs-overlay nft-host kube-nftables", _with_a_second_owner),
    ),
    # TCP repairs this a second later, and the check must not.
    "the answer to a first segment is lost": (
        "reach.other-node",
        _of("ipvs-host nft-lb ebpf-tc ebpf-redirect", _with_first_answers_lost),
    ),
}
"""What is lost -> the check that must fail, and the way in which each plane that needs it loses it."""


@pytest.mark.parametrize(
    ("broken", "damage"),
    [(plane, damage) for damage, (_, planes) in DAMAGES.items() for plane in planes],
    indirect=["broken"],
)
def test_what_is_lost_is_seen(broken: Bench, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TIMEOUT", 3.0)
    broken.breaks = lambda mutant: None
    broken.lab.reinstall()
    name, planes = DAMAGES[damage]
    with ExitStack() as undo:
        planes[broken.mutant.name](broken.lab, undo)
        observe(broken, name)


class _Losing:
    """The clock of a check that idles. Instead of waiting, it removes what the plane remembers."""

    def __init__(self, lose: Callable[[], None]) -> None:
        self._lose = lose
        self._skipped = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        if seconds:
            self._skipped += seconds
            self._lose()


def _lose_connections(lab: Lab) -> None:
    """Do what time-outs do: remove everything that connection tracking and a plane's own table remember."""
    lab.reinstall()
    vips = {each.vip: () for each in lab.services()}
    for _, _, name in lab.namespaces():
        with Conntrack(name) as entries:
            entries.flush(vips)


_FORGETFUL = pytest.mark.parametrize(
    "broken",
    ["nft-container", "nft-lb", "nft-overlay", "nft-bridge", "nft-host", "ebpf-tc", "ebpf-redirect"],
    indirect=True,
)
_IDLES = [name for name, each in checks.CHECKS.items() if each.idles and name != "idle.udp-400s"]  # it may begin anew


@_FORGETFUL
def test_a_connection_that_idles_and_is_not_lost_goes_on(broken: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.breaks = lambda mutant: None
    broken.lab.reinstall()
    monkeypatch.setattr(checks, "time", _Losing(lambda: None))
    cells = checks.observe([checks.CHECKS[name] for name in _IDLES], world.World(broken.lab), broken.mutant.name)
    assert {cell.check: cell.detail for cell in cells if cell.outcome != "pass"} == {}


@pytest.mark.parametrize("name", _IDLES)
@_FORGETFUL
def test_a_connection_lost_while_it_idles_is_seen(broken: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check notices it even though a plane that chooses anew may choose the same backend."""
    monkeypatch.setattr(world, "TIMEOUT", 1.0)
    monkeypatch.setattr(checks, "time", _Losing(lambda: _lose_connections(broken.lab)))
    observe(broken, name)
