"""The article's own statements about its own world (docs/sources.md), one test each."""

from __future__ import annotations

import json
import socket

import pytest

from dataplanes.kernel import iptables, netns, process, sysctl
from dataplanes.kernel.ipvs import Ipvs
from dataplanes.kernel.rtnl import Rtnl
from scenarios import dns
from scenarios.checks.backends import reached
from scenarios.lab import Lab
from tests.lab.conftest import BUSYBOX_VIP, CLIENT, VIP, Labs, View, awaited, running

WEB = {"my-web.1": "10.0.0.3", "my-web.2": "10.0.0.4", "my-web.3": "10.0.0.5"}
PLACES = ("container", "lb", "overlay", "host")
EBPF = ("ebpf-socket", "ebpf-tc", "ebpf-redirect")
SERVING = [
    *(f"{mechanism}-{place}" for mechanism in ("ipvs", "nft") for place in PLACES),
    "nft-bridge",
    *EBPF,
    "kube-ipvs",
]
"""Every plane that chooses in turn except `direct`, and `ipvs-lb-dsr`, whose tasks do not reach others by the VIP."""
AT_RANDOM = ["kube-iptables", "kube-nftables", "kube-nftables@1.36", "kube-nftables@one-map", "moby-nftables"]
"""Planes that choose backends at random."""
PROGRAMMED = ["ipvs-container@map", "ipvs-lb@iptables", "ipvs-overlay@iptables", "ipvs-overlay@port"]
"""Planes of IPVS that are programmed otherwise than by default, one of each way."""
_COUNT = """
add table ip filter
add chain ip filter forward { type filter hook forward priority 0; }
add rule ip filter forward counter
"""


@pytest.fixture
def lab(labs: Labs) -> Lab:
    return labs("ipvs-container")


def test_names_resolve_as_in_the_document(lab: Lab) -> None:
    view = View(lab)
    assert view.resolve("my-web") == ("NOERROR", [VIP])
    code, tasks = view.resolve("tasks.my-web")
    assert (code, sorted(tasks)) == ("NOERROR", sorted(WEB.values()))
    assert len({tuple(view.resolve("tasks.my-web")[1]) for _ in range(30)}) > 1, "never shuffled"
    assert view.resolve("my-web", "AAAA") == ("NOERROR", [])
    assert view.resolve("example.com") == ("NXDOMAIN", [])


def test_a_containers_nat_table_has_the_resolvers_entries_only(labs: Labs) -> None:
    for container in labs("direct").containers.values():
        tables = iptables.Tables(container.netns)
        assert iptables.entries(tables.info("nat")) == iptables.EMPTY["nat"] + dns.ENTRIES
        tables.close()


@pytest.mark.parametrize("container", [CLIENT, *WEB])
def test_300_connections_are_100_for_each_backend_from_everywhere(lab: Lab, container: str) -> None:
    assert View(lab, container).spread(300) == {"1": 100, "2": 100, "3": 100}


def test_backends_see_the_clients_own_address(lab: Lab) -> None:
    seen = {tuple(View(lab).who()[i] for i in (1, 3)) for _ in range(3)}
    assert seen == {("10.0.0.7", address) for address in WEB.values()}


def test_a_backend_calling_its_own_vip_is_seen_as_itself(lab: Lab) -> None:
    assert {View(lab, "my-web.1").who()[1] for _ in range(3)} == {"10.0.0.3"}


@pytest.mark.parametrize("container", [CLIENT, "my-web.1", "my-web.3"])
def test_udp_too(lab: Lab, container: str) -> None:
    answers = [View(lab, container).who_udp() for _ in range(6)]
    assert {answer[0] for answer, _ in answers} == {"1", "2", "3"}
    assert {source for _, source in answers} == {VIP}


def test_any_port_reaches_a_backend_which_refuses_it(lab: Lab) -> None:
    with pytest.raises(ConnectionRefusedError):
        View(lab).connect(port=4711)
    assert View(lab, "my-web.3").who(BUSYBOX_VIP)[3] == "10.0.0.7"


def test_the_client_is_told_it_speaks_to_the_vip(lab: Lab) -> None:
    with View(lab).connect() as handle:
        assert handle.getpeername() == (VIP, 80)


@pytest.mark.parametrize(("container", "address"), [*WEB.items(), (CLIENT, "10.0.0.7")])
def test_every_container_has_the_documents_rules(lab: Lab, container: str, address: str) -> None:
    name = lab.containers[container].netns
    marks = [rule for rule in iptables.rules(name, "mangle") if rule.startswith("-A")]
    assert marks == [
        f"-A OUTPUT -d {VIP}/32 -j MARK --set-xmark 0x101/0xffffffff",
        f"-A OUTPUT -d {BUSYBOX_VIP}/32 -j MARK --set-xmark 0x102/0xffffffff",
    ]
    snat = [rule for rule in iptables.rules(name, "nat") if "ipvs" in rule]
    assert snat == [f"-A POSTROUTING -d 10.0.0.0/24 -m ipvs --ipvs -j SNAT --to-source {address}"]
    ipvs = Ipvs(name)
    found = {
        s.key: (s.scheduler, sorted((d.address, d.forward, d.weight) for d in s.destinations)) for s in ipvs.services()
    }
    ipvs.close()
    assert found == {
        0x101: ("rr", [(each, "Masq", 1) for each in WEB.values()]),
        0x102: ("rr", [("10.0.0.7", "Masq", 1)]),
    }
    with Rtnl(name) as rtnl:
        eth0 = rtnl.index("eth0")
        addresses = [
            f"{each.get_attr('IFA_LOCAL')}/{each['prefixlen']}" for each in rtnl.addresses() if each["index"] == eth0
        ]
    assert addresses == [f"{address}/24", f"{VIP if container in WEB else BUSYBOX_VIP}/32"]
    assert sysctl.value(name, "net.ipv4.vs.conntrack") == "1"


@pytest.mark.parametrize("dataplane", SERVING)
@pytest.mark.parametrize("container", [CLIENT, "my-web.1", "my-web.3"])
def test_every_placement_reaches_every_backend_on_both_nodes(labs: Labs, dataplane: str, container: str) -> None:
    view = View(labs(dataplane), container)
    assert view.spread(9) == {"1": 3, "2": 3, "3": 3}
    assert {view.who_udp()[0][0] for _ in range(6)} == {"1", "2", "3"}


@pytest.mark.parametrize("dataplane", AT_RANDOM)
@pytest.mark.parametrize("container", [CLIENT, "my-web.1", "my-web.3"])
def test_every_layout_reaches_every_backend_on_both_nodes(labs: Labs, dataplane: str, container: str) -> None:
    view = View(labs(dataplane), container)
    assert set(reached([*"123"], lambda: view.who()[0])) == {*"123"}
    assert set(reached([*"123"], lambda: view.who_udp()[0][0])) == {*"123"}


def test_direct_routing_balances_clients_but_a_task_only_reaches_itself(labs: Labs) -> None:
    lab = labs("ipvs-lb-dsr")
    assert View(lab).spread(9) == {"1": 3, "2": 3, "3": 3}
    assert View(lab, "my-web.1").spread(6) == {"1": 6}  # its VIP is on its own lo (moby/libnetwork#2270)
    assert View(lab).who()[1] == "10.0.0.7"


@pytest.mark.parametrize(
    ("dataplane", "source"), [("ipvs-lb", "10.0.0.10"), ("ipvs-host", "10.0.0.10"), ("ipvs-overlay", "10.0.0.7")]
)
def test_who_the_backends_see(labs: Labs, dataplane: str, source: str) -> None:
    """The source is a node's address with lb and host (worker2 has the third), and the client's with overlay."""
    lab = labs(dataplane)
    seen = {View(lab).who()[1] for _ in range(3)}
    own = {e.address for e in lab.attachments() if e.node == "worker2"} or {source}
    assert seen == own


@pytest.mark.parametrize("dataplane", [*SERVING, *AT_RANDOM])
def test_a_multipath_connection_is_balanced_and_to_the_vip(labs: Labs, dataplane: str) -> None:
    """Try every plane. On ebpf-socket getpeername() tells the backend.

    Its programs are asked about the connect() of the subflow's socket and about the getpeername() of the connection's
    socket (net/mptcp/protocol.c, mptcp_connect; net/ipv4/af_inet.c, inet_getname).
    """

    def ask() -> str:
        with labs(dataplane).socket(CLIENT, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as handle:
            handle.settimeout(5)
            handle.connect((VIP, 80))
            handle.sendall(b"w")
            _, _, _, address, *_ = handle.recv(256).decode().split()
            assert handle.getpeername() == (address if dataplane == "ebpf-socket" else VIP, 80)
            return address

    assert set(reached([*WEB.values()], ask)) == {*WEB.values()}


def test_the_lb_namespace_is_what_a_real_swarm_node_has(labs: Labs) -> None:
    """The namespace is like the dump of a real lb_ namespace (docs/sources.md), with this world's addresses."""
    lab = labs("ipvs-lb@iptables+mute=false")
    (attachment,) = [e for e in lab.attachments() if e.node == "worker2"]
    name = attachment.netns
    nat = [rule for rule in iptables.rules(name, "nat") if "ipvs" in rule]
    assert nat == [f"-A POSTROUTING -d 10.0.0.0/24 -m ipvs --ipvs -j SNAT --to-source {attachment.address}"]
    assert [rule for rule in iptables.rules(name, "mangle") if rule.startswith("-A")] == [
        f"-A INPUT -d {VIP}/32 -j MARK --set-xmark 0x101/0xffffffff",
        f"-A INPUT -d {BUSYBOX_VIP}/32 -j MARK --set-xmark 0x102/0xffffffff",
    ]
    wanted = {
        "net.ipv4.ip_forward": "1",
        "net.ipv4.vs.conntrack": "1",
        "net.ipv4.vs.conn_reuse_mode": "0",
        "net.ipv4.vs.expire_nodest_conn": "1",
        "net.ipv4.vs.expire_quiescent_template": "1",
        "net.ipv4.vs.run_estimation": "1",
    }
    assert {key: sysctl.value(name, key) for key in wanted} == wanted
    assert netns.exists(name)


@pytest.mark.parametrize(
    ("dataplane", "on"),
    [
        ("ipvs-lb@iptables", {"address"}),
        ("ipvs-overlay@iptables", {"address"}),
        ("ipvs-host@iptables", {"address"}),
        ("ipvs-lb", {"route"}),
        ("ipvs-overlay", {"route"}),
        ("ipvs-host", {"route"}),
        ("nft-lb", {"route"}),
        ("nft-overlay", {"route"}),
        ("nft-bridge", {"route"}),
        ("nft-host", {"route"}),
        ("kube-ipvs", {"address"}),
        ("moby-nftables", {"address"}),
        ("kube-iptables", {"forwarded"}),
        ("kube-nftables", {"forwarded"}),
    ],
)
def test_how_a_vip_is_owned(labs: Labs, dataplane: str, on: set[str]) -> None:
    """The VIP is once on the client's node: as an address, as a local route without an address, or forwarded."""
    found = set()
    for _, node, name in labs(dataplane).namespaces():
        with Rtnl(name) as rtnl:
            if VIP in {address.get_attr("IFA_LOCAL") for address in rtnl.addresses()}:
                found.add((node, "address"))
            if any(r.get_attr("RTA_DST") == VIP and r["type"] == 1 for r in rtnl.routes()):
                found.add((node, "forwarded"))
            if any(r.get_attr("RTA_DST") == VIP and r["type"] == 2 and r["proto"] == 4 for r in rtnl.routes()):
                found.add((node, "route"))
    assert {how for node, how in found if node == "worker2"} == on


def test_the_kernel_counts_connections_unless_ipvs_is_told_not_to() -> None:
    with running("ipvs-lb") as lab:
        assert View(lab).spread(30) == {"1": 10, "2": 10, "3": 10}
        assert lab.plane
        counted = lab.plane.counters
        assert awaited(lambda: sum(each.connections for each in counted()) == 30)  # the kernel counts every two seconds
    with running("ipvs-lb+run_estimation=0") as lab:
        assert lab.plane
        assert lab.plane.counters() == [], "what stands still is told"


def test_between_nodes_is_a_wire_which_no_netfilter_sees() -> None:
    """Between Docker hosts, the hosts' bridges hand their frames to netfilter, and the switch does not."""
    with running("direct") as lab:
        overlay = next(name for kind, node, name in lab.namespaces() if (kind, node) == ("overlay", "worker1"))
        underlay = lab.fabric.host_netns("underlay")
        for name in (overlay, underlay):
            _nft(name, _COUNT)
        assert View(lab).who(WEB["my-web.3"])[3] == WEB["my-web.3"]
        assert _forwarded(overlay) > 0
        assert _forwarded(underlay) == 0


def _forwarded(name: str) -> int:
    rule = json.loads(_nft(name, "list table ip filter"))["nftables"][-1]["rule"]
    packets: int = rule["expr"][0]["counter"]["packets"]
    return packets


def _nft(name: str, command: str) -> str:
    return process.run(name, ["nft", "-j", command])
