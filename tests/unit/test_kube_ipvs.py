"""The layout of kube-proxy's IPVS mode, rule by rule and member by member, and the messages about sets.

The facts are of pkg/proxy/ipvs (README.md with --masquerade-all, proxier.go, ipset.go). The world is the one of
test_kube_golden.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.nfnetlink.ipset import ipset_msg

from dataplanes import ipsets, kube_ipvs
from dataplanes.chains import IptablesChains
from dataplanes.errors import KernelRefused
from dataplanes.kernel import ipset
from dataplanes.kernel.ipvs import Listener
from dataplanes.kernel.netlink import Request
from dataplanes.kernel.undo import Undo
from dataplanes.kube_ipvs import KubeIpvs
from dataplanes.kube_knobs import KubeKnobs
from tests.unit.test_kube_golden import SITE, WORLD, service
from tests.unit.test_kube_iptables import Tables, tables

__all__ = ["tables"]
GOLDEN = Path(__file__).parent / "golden" / "kube" / "ipvs.txt"


class Kernel:
    """The sets of a namespace, by the messages about them. It can refuse one of them."""

    def __init__(self) -> None:
        self.sets: dict[str, set[str]] = {}
        self.refuse = ""

    def __call__(self, name: str) -> Kernel:
        return self

    def send(self, requests: Iterable[Request]) -> None:
        for request in requests:
            verb, name, *member = told(request)
            if self.refuse == " ".join((verb, name, *member)):
                self.refuse = ""
                raise KernelRefused("refused by the test")
            if verb == "create":
                self.sets.setdefault(name, set())
            elif verb == "destroy":
                self.sets.pop(name, None)
            elif verb == "add":
                self.sets[name].add(*member)
            else:
                self.sets[name].discard(*member)

    def replace(self, name: str, kind: str, members: Iterable[str]) -> None:
        self.sets[name] = set(members)

    def close(self) -> None: ...

    def listed(self) -> list[str]:
        return sorted(f"ipset {name} {member}" for name, members in self.sets.items() for member in members)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(ipsets, "Sets", made)
    return made


def read(request: Request) -> Any:
    """Decode a message as pyroute2 does."""
    found = ipset_msg(struct.pack("=IHHII", 16 + len(request.body), request.kind, 0, 0, 0) + request.body)
    found.decode()
    return found


def told(request: Request) -> list[str]:
    """Read a message as pyroute2 reads it."""
    found = read(request)
    verb = {2: "create", 3: "destroy", 9: "add", 10: "delete"}[request.kind & 0xFF]
    words = [verb, found.get_attr("IPSET_ATTR_SETNAME")]
    if verb in ("add", "delete"):
        data = found.get_attr("IPSET_ATTR_DATA")
        member = [data.get_attr("IPSET_ATTR_IP_FROM").get_attr("IPSET_ATTR_IPADDR_IPV4")]
        if data.get_attr("IPSET_ATTR_PROTO"):
            protocol = {6: "tcp", 17: "udp", 132: "sctp"}[data.get_attr("IPSET_ATTR_PROTO")]
            member.append(f"{protocol}:{data.get_attr('IPSET_ATTR_PORT_FROM')}")
        if data.get_attr("IPSET_ATTR_IP2"):
            member.append(data.get_attr("IPSET_ATTR_IP2").get_attr("IPSET_ATTR_IPADDR_IPV4"))
        words.append(",".join(member))
    return words


def test_rules_and_members_are_those_of_kube_proxy(kernel: Kernel, tables: Tables) -> None:
    filters, entries = KubeIpvs(KubeKnobs())._filters(SITE)
    for each in filters:
        each.open()
    fixed = tables.listed()
    with Undo() as undo:
        for each in filters:
            each.change(entries([]), entries(WORLD), undo)
    assert sorted([*tables.listed(), *kernel.listed()]) == GOLDEN.read_text().splitlines()
    assert tables.listed() == fixed, "no rule is of a service"
    for each in reversed(filters):
        each.clear()
    assert (tables.listed(), kernel.sets) == ([], {})


def test_rules_are_in_the_order_of_kube_proxy(kernel: Kernel, tables: Tables) -> None:
    for each in KubeIpvs(KubeKnobs())._filters(SITE)[0]:
        each.open()
    ends = {chain: [rule.rpartition(" ")[2] for rule in rules] for (_, chain), rules in tables.chains.items()}
    assert ends["KUBE-SERVICES"] == ["KUBE-MARK-MASQ", "KUBE-NODE-PORT", "ACCEPT"]
    assert ends["KUBE-IPVS-FILTER"] == ["RETURN"] * 5 + ["REJECT"]
    assert ends["KUBE-POSTROUTING"] == ["MASQUERADE", "RETURN", "0x4000", "--random-fully"]
    assert ends["INPUT"] == ["KUBE-IPVS-FILTER", "KUBE-PROXY-FIREWALL", "KUBE-NODE-PORT"]


def test_every_set_that_a_rule_names_is_there() -> None:
    rules = [rule for of in (kube_ipvs.NAT, kube_ipvs.FILTER) for each in of.chains.values() for rule in each]
    named = {rule.split("--match-set ")[1].split()[0] for rule in rules if "--match-set" in rule}
    assert named == set(kube_ipvs.SETS)


def test_a_service_has_a_virtual_service_for_each_port() -> None:
    web = service("ns1", "web", "172.30.0.41", "10.180.0.1")
    assert kube_ipvs.keys(web) == [Listener("tcp", "172.30.0.41", 80)]


@pytest.mark.parametrize("refused", ["add KUBE-CLUSTER-IP 172.30.0.44,tcp:80", "delete KUBE-IPVS-IPS 172.30.0.41"])
def test_a_change_that_is_refused_leaves_the_members_as_they_were(kernel: Kernel, refused: str) -> None:
    sets = ipsets.Ipsets("ns", kube_ipvs.SETS)
    sets.open()
    with Undo() as undo:
        sets.change([], kube_ipvs.entries(WORLD[:1]), undo)
    before = kernel.listed()
    kernel.refuse = refused
    with pytest.raises(KernelRefused), Undo() as undo:
        sets.change(kube_ipvs.entries(WORLD[:1]), kube_ipvs.entries(WORLD[1:]), undo)
    assert kernel.listed() == before
    kernel.sets["KUBE-CLUSTER-IP"] = {"172.30.0.99,udp:9"}
    sets.restore()
    assert kernel.listed() == before
    counted = {each.kind: each.objects for each in sets.footprint()}
    assert counted == {"ipset sets": len(kube_ipvs.SETS), "ipset members": 3}


def test_two_networks_share_tables_and_sets(kernel: Kernel, tables: Tables) -> None:
    mechanism = KubeIpvs(KubeKnobs())
    first, second = (mechanism._filters(SITE)[0] for _ in range(2))
    assert first == second
    assert [type(each) for each in first] == [ipsets.Ipsets, IptablesChains, IptablesChains]


def test_kinds_and_names_are_as_pyroute2_reads_them() -> None:
    found = read(ipset.create("KUBE-CLUSTER-IP", "hash:ip,port"))
    assert found.get_attr("IPSET_ATTR_TYPENAME") == "hash:ip,port"
    assert found.get_attr("IPSET_ATTR_SETNAME") == "KUBE-CLUSTER-IP"
    assert found.get_attr("IPSET_ATTR_FAMILY") == 2
