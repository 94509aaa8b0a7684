"""OVN with the datapath of userspace: what it needs, where a node's address is, and whose connections it tells."""

from __future__ import annotations

from typing import Any

import pytest

from dataplanes import catalog, platforms
from dataplanes.kernel import iptables
from dataplanes.platforms import Version
from dataplanes.requirements import Condition, Feature
from scenarios import topology
from scenarios.journal import Journal
from scenarios.ovn import userspace
from scenarios.ovn.daemons import OvnNode, OvnPrograms
from scenarios.ovn.testbed import Ovn


def test_only_the_kernels_datapath_needs_a_machine_of_its_own() -> None:
    kernels, userspace = (catalog.requires(each) for each in catalog.select("ovn@23.03,ovn@23.03-userspace"))
    assert [each for each in kernels if isinstance(each, Condition)]
    assert not [each for each in userspace if isinstance(each, Condition)]
    asked = [{each.config for each in needs if isinstance(each, Feature)} for needs in (kernels, userspace)]
    assert "OPENVSWITCH" in asked[0] - asked[1]
    assert "TUN" in asked[1] - asked[0]
    assert asked[0] & asked[1] == {"VETH", "BRIDGE"}


def test_a_node_of_userspace_has_its_address_at_the_bridge_of_its_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge has the MAC of its interface, and the kernel ignores what the switch has."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(iptables, "program", lambda name, table, lines: told.append((name, table, *lines)))
    with Journal() as journal:
        programs = OvnPrograms(Version(()), "/home", "worker1")
        monkeypatch.setattr(programs, "run", lambda *argv: told.append(argv[3:]))
        node = OvnNode(programs, "netns", journal)
        userspace.take_over(node, "host", _Rtnl(told), "192.168.99.101")  # type: ignore[arg-type]
    hwaddr = 'other_config:hwaddr="02:42:c0:a8:63:65"'
    assert told == [
        ("host", "filter", *userspace._IGNORED),
        ("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev", hwaddr),
        ("add-port", "br-phy", "eth0"),
        ("address_del", "eth0", "192.168.99.101/20"),
        ("link_set", "br-phy"),
        ("address_add", "br-phy", "192.168.99.101/20"),
    ]


class _Rtnl:
    """A network namespace that is told of in words."""

    def __init__(self, told: list[tuple[str, ...]]) -> None:
        self._told = told

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **_: (name, *words)

    def send(self, requests: list[tuple[str, ...]]) -> None:
        self._told += requests


def test_each_node_of_userspace_knows_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first packet to a node whose MAC is asked for is lost."""
    asked: list[tuple[str, ...]] = []
    addresses = {"a": "192.168.99.100", "b": "192.168.99.101"}
    with Journal() as journal:
        nodes = {name: OvnNode(OvnPrograms(Version(()), "/home", name), name, journal) for name in addresses}
        for name, node in nodes.items():
            monkeypatch.setattr(node, "_ask", lambda *words, name=name: asked.append((name, *words)))
        userspace.introduce(nodes, addresses)
    assert asked == [
        ("a", "vswitchd", "tnl/neigh/set", "br-phy", "192.168.99.101", "02:42:c0:a8:63:65"),
        ("b", "vswitchd", "tnl/neigh/set", "br-phy", "192.168.99.100", "02:42:c0:a8:63:64"),
    ]


@pytest.mark.parametrize(("version", "tracked"), [("23.03", {}), ("23.03-userspace", {"worker1": ["udp,orig=()"]})])
def test_connections_of_userspace_are_told(
    version: str, tracked: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the kernel's datapath are where all of the kernel are."""
    made_of = platforms.known()["ovn"].versions[version]
    with Journal() as journal:
        testbed = Ovn(topology.load("seed"), made_of, version, journal=journal, server=lambda _: [])
        node = OvnNode(OvnPrograms(Version(()), "/home", "worker1"), "netns", journal)
        monkeypatch.setattr(node, "_ask", lambda *_: "udp,orig=()\n")
        testbed.fabric.nodes = {"worker1": node}
        assert testbed.tracked() == {testbed.fabric.host_netns(name): lines for name, lines in tracked.items()}
