"""kube-proxy's IPVS mode: a virtual service for each port, VIPs on the device kube-ipvs0, and masquerading by sets.

The facts are of pkg/proxy/ipvs/proxier.go, ipset.go and README.md, and of listings from nodes. The rules do not depend
on services, which are members of sets. What comes to a VIP and to no port of a service is refused (KUBE-IPVS-FILTER),
so that no server of the node answers there (kubernetes/kubernetes#72236).

kube-proxy gives a removed endpoint weight 0, and removes it when its last connection has ended. Here the weight is 0
between the drain and the removal that a scenario makes. The set of hairpins has every endpoint, and on a node only that
node's own. conn_reuse_mode stays as the kernel has it, as on Linux 5.9 and later (kubernetes/kubernetes#93297).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from dataplanes.base import Counter, Director, Footprint, Site
from dataplanes.chains import IptablesChains, Layout
from dataplanes.filter_director import Entries, SharedSite
from dataplanes.filters import Entry, Filter
from dataplanes.ipsets import Ipsets
from dataplanes.ipvs_virtual import VirtualServices
from dataplanes.kernel.ipvs import MASQUERADE, Ipvs, Listener, ServiceKey
from dataplanes.kernel.undo import Undo
from dataplanes.kube import CONNTRACK, IPTABLES, KubeDirector, KubeProxy
from dataplanes.kube_iptables import MARK, MASQUERADING, TO_NAT
from dataplanes.kube_knobs import KubeKnobs
from dataplanes.model import Service
from dataplanes.requirements import Feature, Requirement

SETTINGS = {
    "net.ipv4.vs.conntrack": "1",
    "net.ipv4.vs.expire_nodest_conn": "1",
    "net.ipv4.vs.expire_quiescent_template": "1",
}
SETS = {
    "KUBE-CLUSTER-IP": "hash:ip,port",
    "KUBE-LOOP-BACK": "hash:ip,port,ip",
    "KUBE-IPVS-IPS": "hash:ip",
    "KUBE-LOAD-BALANCER": "hash:ip,port",
    "KUBE-EXTERNAL-IP": "hash:ip,port",
    "KUBE-EXTERNAL-IP-LOCAL": "hash:ip,port",
    "KUBE-HEALTH-CHECK-NODE-PORT": "bitmap:port",
}
"""The sets that rules name. Those for load balancers, external addresses and node ports stay empty."""
_CLUSTER = "-m set --match-set KUBE-CLUSTER-IP dst,dst"
_HEALTH = "-m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst"
_PORTALS = ("KUBE-LOAD-BALANCER", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL")
NAT = Layout(
    "nat",
    {
        "KUBE-SERVICES": (
            f"{_CLUSTER} -j KUBE-MARK-MASQ",
            "-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT",
            f"{_CLUSTER} -j ACCEPT",
        ),
        "KUBE-NODE-PORT": (),
        "KUBE-LOAD-BALANCER": ("-j KUBE-MARK-MASQ",),
        **MASQUERADING,
        "KUBE-POSTROUTING": (
            "-m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE",
            *MASQUERADING["KUBE-POSTROUTING"],
        ),
    },
    TO_NAT,
    "KUBE-SERVICES",
)
FILTER = Layout(
    "filter",
    {
        "KUBE-FORWARD": (f"-m mark --mark {MARK} -j ACCEPT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        "KUBE-NODE-PORT": (f"{_HEALTH} -j ACCEPT",),
        "KUBE-PROXY-FIREWALL": (),
        "KUBE-SOURCE-RANGES-FIREWALL": ("-j DROP",),
        "KUBE-IPVS-FILTER": (
            *(f"-m set --match-set {name} dst,dst -j RETURN" for name in _PORTALS),
            f"{_HEALTH} -j RETURN",
            "-m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT",
        ),
        "KUBE-IPVS-OUT-FILTER": (),
    },
    (
        "INPUT -j KUBE-IPVS-FILTER",
        "INPUT -j KUBE-PROXY-FIREWALL",
        "INPUT -j KUBE-NODE-PORT",
        "FORWARD -j KUBE-PROXY-FIREWALL",
        "FORWARD -j KUBE-FORWARD",
        "OUTPUT -j KUBE-IPVS-OUT-FILTER",
    ),
    "KUBE-FORWARD",
)


def entries(services: Sequence[Service]) -> Iterator[Entry]:
    """Yield the members of the sets that services have."""
    for service in services:
        yield "KUBE-IPVS-IPS", service.vip
        for port in service.ports:
            where = f"{port.protocol}:{port.number}"
            yield "KUBE-CLUSTER-IP", f"{service.vip},{where}"
            for backend in service.backends:
                yield "KUBE-LOOP-BACK", f"{backend.address},{where},{backend.address}"


def keys(service: Service) -> list[ServiceKey]:
    """Return the virtual services of a service: one for each of its ports."""
    return [Listener(port.protocol, service.vip, port.number) for port in service.ports]


class KubeIpvs(KubeProxy):
    """kube-proxy's IPVS mode. All networks of a node share its chains and sets."""

    name = "kube-ipvs"
    in_turn = True
    settings = SETTINGS

    def __init__(self, knobs: KubeKnobs) -> None:
        super().__init__(knobs)
        self._tables: dict[str, list[Filter]] = {}

    @classmethod
    def requires(cls, knobs: KubeKnobs) -> tuple[Requirement, ...]:
        return (
            Feature("IP_VS", "ip_vs", "IP virtual server"),
            Feature("IP_VS_RR", "ip_vs_rr", "the round-robin scheduler"),
            Feature("IP_VS_PROTO_TCP", "ip_vs", "IPVS of TCP"),
            Feature("IP_VS_PROTO_UDP", "ip_vs", "IPVS of UDP"),
            Feature("IP_VS_NFCT", "ip_vs", "net.ipv4.vs.conntrack, which masquerading after IPVS needs"),
            *CONNTRACK,
            *IPTABLES,
            Feature("NETFILTER_XT_SET", "xt_set", "matching sets in rules"),
            Feature("IP_SET", "ip_set", "sets of addresses and ports"),
            Feature("IP_SET_HASH_IP", "ip_set_hash_ip", "the set of all VIPs"),
            Feature("IP_SET_HASH_IPPORT", "ip_set_hash_ipport", "the set of all ports of services"),
            Feature("IP_SET_HASH_IPPORTIP", "ip_set_hash_ipportip", "the set of endpoints that reach themselves"),
            Feature("IP_SET_BITMAP_PORT", "ip_set_bitmap_port", "the set of ports for health checks"),
        )

    def _filters(self, site: Site) -> tuple[list[Filter], Entries]:
        if site.netns not in self._tables:
            tables = [IptablesChains(site.netns, layout) for layout in (FILTER, NAT)]
            self._tables[site.netns] = [Ipsets(site.netns, SETS), *tables]
        return self._tables[site.netns], entries

    def _director(self, site: Site, shared: SharedSite) -> Director:
        return _IpvsModeDirector(site, shared, *self._filters(site))


class _IpvsModeDirector(KubeDirector):
    """A director that has virtual services besides its tables."""

    def __init__(self, site: Site, shared: SharedSite, filters: list[Filter], entries: Entries) -> None:
        self._ipvs = Ipvs(site.netns)
        self._virtual = VirtualServices(self._ipvs, keys, MASQUERADE, "rr", True)
        super().__init__(site, shared, filters, entries)

    def _program(self, old: Sequence[Service], new: Sequence[Service], undo: Undo) -> None:
        # A service is ready before any packet finds it, and goes after the last one has.
        ways = [partial(self._virtual.change, old, new, undo), partial(super()._program, old, new, undo)]
        for program in ways if new else reversed(ways):
            program()

    def _restore(self) -> None:
        super()._restore()
        self._virtual.restore(self._services.values())

    def counters(self) -> list[Counter]:
        return self._virtual.counters(self._site.netns, self._services.values())

    def footprint(self) -> list[Footprint]:
        services, destinations = self._virtual.size(self._services.values())
        netns = self._site.netns
        held = [Footprint(netns, "ipvs services", services), Footprint(netns, "ipvs destinations", destinations)]
        return [*held, Footprint(netns, "ipvs connections", self._ipvs.connections()), *super().footprint()]

    def release(self) -> None:
        super().release()
        self._ipvs.close()

    def _look(self) -> dict[str, object]:
        return {"virtual services": self._ipvs.count(), **super()._look()}
