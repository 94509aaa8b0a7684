"""What planes can lose, and the check that must fail then: by hand, for the planes that need it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from dataplanes import classifiers, ebpf_services
from dataplanes.bridge_connections import BridgeConnections
from dataplanes.kernel import conntrack, iptables, nft, process, sysctl
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.netlink import Request
from dataplanes.model import Endpoint, Service
from dataplanes.placed import PlacedPlane
from dataplanes.vips import Addresses
from scenarios.checks import world
from scenarios.fabric import Fabric
from tests.lab.mutants import Damage, ruleset, xtables
from tests.lab.mutants.bed import Bed
from tests.lab.mutants.told import Mutant


def _without_ipvs_rules(table: str, chain: str, part: str, bed: Bed, undo: ExitStack) -> None:
    found = 0
    for name in xtables.places(bed.lab, table):
        gone = [rule for rule in iptables.rules(name, table) if rule.startswith(f"-A {chain} ") and part in rule]
        xtables.delete(name, table, gone)
        found += len(gone)
    assert found


def _without_nft_rules(chain: str, bed: Bed, undo: ExitStack) -> None:
    found = 0
    for place in ruleset.places(bed, undo):
        found += place.run_in_each("ip", f"flush chain {{}} {chain}")
    assert found


def _without_bridge(what: str, bed: Bed, undo: ExitStack) -> None:
    """Flush a chain or a set of the bridge: `chain NAME`, `set NAME`."""
    kind, name = what.split()
    found = 0
    for place in ruleset.places(bed, undo):
        found += place.run_in_each("bridge", f"flush {kind} {{}} {name}")
    assert found


def _with_sysctl(kind: str, key: str, value: str, bed: Bed, undo: ExitStack) -> None:
    names = [name for found, _, name in bed.lab.namespaces() if found == kind]
    assert {sysctl.value(name, key) for name in names} - {value}
    for name in names:
        sysctl.write(name, {key: value})


def _keeping_connections(bed: Bed, undo: ExitStack) -> None:
    patch = undo.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(Conntrack, "flush", lambda self, keep, protocol=None: 0)
    patch.setattr(BridgeConnections, "flush", lambda self, keep: 0)
    patch.setattr(ebpf_services.ServiceTable, "_forget_flows", lambda self, lost, gone: None)


def _removing_too_much(bed: Bed, undo: ExitStack) -> None:
    """Have the plane remove every service that shares a backend with one that is removed."""

    def remove(mutant: Mutant, services: Sequence[Service]) -> None:
        gone = {backend.address for service in services for backend in service.backends}
        mutant.plane.remove(
            [each for each in mutant.before.values() if gone & {backend.address for backend in each.backends}]
        )

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Mutant, "remove", remove)


def _in_two_steps(bed: Bed, undo: ExitStack) -> None:
    """A change of a service removes the service, and adds it again as it is to be."""
    apply = Mutant.apply

    def apply_anew(mutant: Mutant, services: Sequence[Service]) -> None:
        mutant.plane.remove([mutant.before[each.name] for each in services if each.name in mutant.before])
        apply(mutant, services)

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Mutant, "apply", apply_anew)


def _programmed_without(part: str, bed: Bed, undo: ExitStack) -> None:
    """The plane programs its rules without those that have this part. So a change does not restore them."""
    patch, carry_out, left_out = undo.enter_context(pytest.MonkeyPatch.context()), nft.Nftables.run, list[str]()

    def run_without(self: nft.Nftables, text: str) -> None:
        lines = text.splitlines()
        left_out.extend(line for line in lines if part in line)
        carry_out(self, "\n".join(line for line in lines if part not in line))

    patch.setattr(nft.Nftables, "run", run_without)
    bed.lab.reinstall()
    assert left_out


def _redirecting(bed: Bed, undo: ExitStack) -> None:
    """A container tells each caller to send to the backend itself, as a router does that sends back to where it heard.

    No balancer can be made to do so by settings: NAT drops a redirect about a connection that it translates
    (net/netfilter/nf_nat_core.c, nf_nat_icmp_reply_translation), and what goes over a bridge is not routed.
    """
    raw, ask = bed.lab.socket(world.VISITOR, socket.SOCK_RAW, socket.IPPROTO_ICMP), world.World.ask
    undo.callback(raw.close)

    def ask_and_redirect(self: world.World, container: str, address: str) -> world.Seen:
        seen = ask(self, container, address)
        message = struct.pack(">BBH4s", 5, 1, 0, socket.inet_aton(seen.destination)) + bytes(28)
        raw.sendto(message[:2] + world.checksum(message) + message[4:], (self.address(container), 0))
        return seen

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(world.World, "ask", ask_and_redirect)


def _without_a_network(bed: Bed, undo: ExitStack) -> None:
    for place in ruleset.places(bed, undo):
        if ("ip", "vip-side") in place.tables:
            place.nft.run("delete table ip vip-side")


def _with_first_answers_lost(bed: Bed, undo: ExitStack) -> None:
    """Of the answers to a client's first segments, the first one of each connection is lost.

    An answer that comes late for an earlier test's connection does not count.
    """
    name = bed.lab.containers[world.CLIENT].netns
    hook = "{ type filter hook input priority -300; }"
    ports = "{ type inet_service; flags dynamic; size 65535; }"
    rule = "tcp flags & (syn | ack) == syn | ack tcp dport != @answered add @answered { tcp dport } drop"
    lines = f"add set ip loss answered {ports}; add chain ip loss input {hook}; add rule ip loss input {rule}"
    process.run(name, ("nft", f"add table ip loss; {lines}"))
    undo.callback(process.run, name, ("nft", "delete", "table", "ip", "loss"))


def _without_programs(bed: Bed, undo: ExitStack) -> None:
    assert [each for _, _, name in bed.lab.namespaces() for each in classifiers.detach_all(name)]


def _with_a_second_owner(bed: Bed, undo: ExitStack) -> None:
    (endpoint,) = (each for each in bed.lab.containers["both.1"].endpoints if each.network == "my-network")
    vips = [bed.lab.service("lone").vip]
    Addresses().own(endpoint.netns, endpoint.interface, vips)
    undo.callback(Addresses().disown, endpoint.netns, endpoint.interface, vips)


def _never_hearing(bed: Bed, undo: ExitStack) -> None:
    """A node that has not heard of a change hears of none ever again."""
    patch = undo.enter_context(pytest.MonkeyPatch.context())
    for name in ("hear", "catch_up"):
        patch.setattr(PlacedPlane, name, lambda self, node: None)


def _never_told_where(bed: Bed, undo: ExitStack) -> None:
    @contextmanager
    def unaware(self: Fabric, node: str) -> Iterator[None]:
        self._kept[node] = []
        yield
        del self._kept[node]

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Fabric, "unaware", unaware)


def _without_containers_of_late_nodes(bed: Bed, undo: ExitStack) -> None:
    add = PlacedPlane.add_endpoint

    def add_unless_late(self: PlacedPlane, endpoint: Endpoint) -> None:
        if endpoint.node not in self._deaf:
            add(self, endpoint)

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(PlacedPlane, "add_endpoint", add_unless_late)


def _with_tracking(bed: Bed, undo: ExitStack) -> None:
    """Connection tracking follows the packets in the overlay namespaces."""
    for kind, _, name in bed.lab.namespaces():
        if kind == "overlay":
            sysctl.write(name, {"net.bridge.bridge-nf-call-iptables": "1"})
            lines = "add chain ip tracking forward { type filter hook forward priority 0; }"
            lines += "; add rule ip tracking forward ct state new accept"
            process.run(name, ("nft", f"add table ip tracking; {lines}"))
            undo.callback(process.run, name, ("nft", "delete", "table", "ip", "tracking"))


def _with_room_made_for_others(bed: Bed, undo: ExitStack) -> None:
    """Connections that are established lose their entries to those that fill the table."""
    occupy = Conntrack.occupy

    def occupy_all(self: Conntrack, entries: int) -> None:
        self._netlink.send([Request(conntrack._DELETE, 0, conntrack._IPV4)])
        occupy(self, entries)

    undo.enter_context(pytest.MonkeyPatch.context()).setattr(Conntrack, "occupy", occupy_all)


def _tracking_nothing_without_the_resolver(bed: Bed, undo: ExitStack) -> None:
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

LOST: dict[str, tuple[str, dict[str, Damage]]] = {
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
    "a change is made in two steps": ("change.rolling-removal", _of(f"nft-lb nft-overlay {_KUBE_NFT}", _in_two_steps)),
    "a connection to the last backend is not reset": (
        "change.delete-is-noticed",
        _of("nft-container nft-lb nft-host", partial(_programmed_without, "unserved tcp flags")),
    ),
    "callers are redirected": ("icmp.redirect", _of("nft-lb", _redirecting)),
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
