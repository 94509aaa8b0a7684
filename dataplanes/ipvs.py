"""IPVS, programmed as its knobs say (ipvs_knobs.py).

A virtual service is a fwmark, or an address, a protocol and a port. Only fwmark and persistent services may mean "all
ports" (net/netfilter/ipvs/ip_vs_core.c, ip_vs_schedule: "port zero only supported in persistent services"). So where a
service has any port, something must mark the packets to its VIP, and the mark selects the virtual service; its
destinations have port 0, so the packet's own port is kept. SNAT needs `net.ipv4.vs.conntrack` = 1; without it the SNAT
rule silently does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.errors import BenchError, Usage
from dataplanes.filters import Filter, IptablesTable, NftTable
from dataplanes.guard import Guard
from dataplanes.ipvs_knobs import ContainerKnobs, IpvsKnobs
from dataplanes.ipvs_rules import MANGLE, NAT, Rules
from dataplanes.ipvs_virtual import VirtualServices
from dataplanes.kernel import sysctl
from dataplanes.kernel.ipvs import DIRECT_ROUTE, MASQUERADE, Ipvs, Listener, ServiceKey
from dataplanes.kernel.undo import Undo
from dataplanes.model import Service
from dataplanes.requirements import Feature, Package, Requirement, Tool
from dataplanes.vips import LocalRoutes

_FIRST_MARK = 0x101  # any would do; on each node of a swarm the first service has 0x100, the next one 0x101
_SETTINGS = (
    *("conntrack", "conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template"),
    *("snat_reroute", "run_estimation"),
)
"""The knobs that are sysctls below net.ipv4.vs."""


_SCHEDULERS = {
    "rr": Feature("IP_VS_RR", "ip_vs_rr", "the round-robin scheduler"),
    "wrr": Feature("IP_VS_WRR", "ip_vs_wrr", "the round-robin scheduler that obeys weights"),
}


class IpvsMechanism(Mechanism):
    """IPVS with one setting of its knobs."""

    name = "ipvs"

    def __init__(self, knobs: IpvsKnobs) -> None:
        self.knobs = knobs
        self.any_port = knobs.choose != "port"
        self._marks: dict[tuple[str, str], int] = {}
        self._next = _FIRST_MARK
        self.guards: dict[str, Guard] = {}  # namespace -> the guard of its directors

    @classmethod
    def requires(cls, knobs: IpvsKnobs) -> tuple[Requirement, ...]:
        return (
            Feature("IP_VS", "ip_vs", "IP virtual server"),
            _SCHEDULERS[knobs.scheduler],
            Feature("IP_VS_PROTO_TCP", "ip_vs", "IPVS of TCP"),
            Feature("IP_VS_PROTO_UDP", "ip_vs", "IPVS of UDP"),
            *_requires(knobs),
        )

    def keys(self, service: Service) -> list[ServiceKey]:
        """Return the virtual services of a service: its fwmark, or one for each of its ports."""
        if self.any_port:
            return [self.mark(service)]
        if not service.ports:
            where, fix = f"{service.network}/{service.name}", "declare its ports, or take choose=map"
            why = "with choose=port IPVS serves declared ports only"
            raise Usage("the service declares no port", where=where, why=why, fix=fix)
        return [Listener(port.protocol, service.vip, port.number) for port in service.ports]

    def mark(self, service: Service) -> int:
        """Return the service's fwmark.

        It is one per service and network, the same at every site, and never used again.
        """
        key = service.network, service.name
        if key not in self._marks:
            self._marks[key] = self._next
            self._next += 1
        return self._marks[key]

    def open(self, site: Site) -> Director:
        return _IpvsDirector(self, site)


def _requires(knobs: IpvsKnobs) -> Iterator[Requirement]:
    """Yield what the knobs need of kernel and machine besides IPVS itself."""
    echo = isinstance(knobs, ContainerKnobs) and knobs.icmp
    by_iptables = knobs.back == "iptables"
    mangle = Feature("IP_NF_MANGLE", "iptable_mangle", "marking packets to a VIP")
    if by_iptables or knobs.back == "nft":
        yield Feature("IP_VS_NFCT", "ip_vs", "net.ipv4.vs.conntrack, which SNAT after IPVS needs")
    if by_iptables:
        yield Feature("NETFILTER_XT_MATCH_IPVS", "xt_ipvs", "SNAT of IPVS connections only")
    if by_iptables and knobs.mute:
        yield Feature("NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", "matching segments that belong to no connection")
        yield mangle
    if by_iptables or echo:
        yield Feature("IP_NF_NAT", "iptable_nat", "SNAT of IPVS connections")
        yield Feature("NETFILTER_XT_NAT", "xt_nat", "SNAT of IPVS connections")
    if knobs.choose == "rule":
        yield Feature("NETFILTER_XT_MARK", "xt_mark", "marking packets to a VIP")
        yield mangle
    if by_iptables or echo or knobs.choose == "rule":
        yield Tool("iptables-legacy-restore", "iptables", "the mark and SNAT rules")
    if knobs.choose == "map" or knobs.back in ("nft", "stateless"):
        yield Feature("NF_TABLES", "nf_tables", "marking packets to a VIP, and changing source addresses")
        yield Feature("NF_TABLES_IPV4", "nf_tables", "marking packets to a VIP, and changing source addresses")
        yield Package("nftables", "python3-nftables", "programming nftables through libnftables")
    if knobs.back == "nft":
        yield Feature("NF_NAT", "nft_chain_nat", "SNAT of IPVS connections")
        yield Feature("NFT_NAT", "nft_nat", "SNAT of IPVS connections")
        yield Feature("NFT_CT", "nft_ct", "SNAT of IPVS connections only")


class _IpvsDirector(Director):
    def __init__(self, mechanism: IpvsMechanism, site: Site) -> None:
        knobs = mechanism.knobs
        self._site = site
        self._services: dict[str, Service] = {}
        self._rules = Rules(site, knobs, mechanism.mark)
        self._sysctls = _sysctls(knobs, self._rules.tracked)
        self._settings = sysctl.Settings()
        self._open = True
        self._guard = mechanism.guards.setdefault(site.netns, Guard())
        self._ipvs = Ipvs(site.netns)
        forward = DIRECT_ROUTE if site.reply == "direct" else MASQUERADE
        self._virtual = VirtualServices(self._ipvs, mechanism.keys, forward, knobs.scheduler, knobs.weight0)
        self._filters = list(_filters(site, self._rules))
        try:
            with Undo() as undo:
                self._cleared = self._guard.doubts(self._look())
                undo(partial(self._settings.put_back, self))
                self._settings.set(self, site.netns, self._sysctls)
                undo(self._unreserve)
                self._reserve()
                for each in self._filters:
                    each.open()
                    undo(each.clear)
                self._guard.ours(self._look())
        except BenchError:
            self.release()
            raise

    def apply(self, services: Sequence[Service]) -> None:
        # A service is ready, and its answers find back, before any packet finds it.
        old = self._known(services)
        with Undo() as undo:
            self._virtual.change(old, services, undo)
            for each in self._filters:
                each.change(self._rules.entries(old), self._rules.entries(services), undo)
            self._note(old, services, undo)

    def remove(self, services: Sequence[Service]) -> None:
        gone = self._known(services)
        with Undo() as undo:
            for each in reversed(self._filters):
                each.change(self._rules.entries(gone), (), undo)
            self._virtual.change(gone, (), undo)
            self._note(gone, (), undo)

    def _note(self, old: Sequence[Service], new: Sequence[Service], undo: Undo) -> None:
        """Record that the kernel has these services now."""

        def turn(old: Sequence[Service], new: Sequence[Service]) -> None:
            for service in old:
                del self._services[service.name]
            self._services.update((service.name, service) for service in new)

        turn(old, new)
        undo(partial(turn, new, old))
        self._guard.ours(self._look())

    def resync(self) -> None:
        doubts = self._guard.doubts(self._look())
        self._settings.set(self, self._site.netns, self._sysctls)
        self._reserve()
        self._virtual.restore(self._services.values())
        for each in self._filters:
            each.restore()
        self._guard.ours(self._look())
        self._cleared = doubts

    def intact(self) -> bool:
        return self._guard.doubts(self._look()) == self._cleared

    def counters(self) -> list[Counter]:
        if self._sysctls.get("net.ipv4.vs.run_estimation") == "0":  # what the kernel tells then stands still
            return []
        return self._virtual.counters(self._site.netns, self._services.values())

    def footprint(self) -> list[Footprint]:
        netns = self._site.netns
        services, destinations = self._virtual.size(self._services.values())
        return [
            Footprint(netns, "ipvs services", services),
            Footprint(netns, "ipvs destinations", destinations),
            Footprint(netns, "ipvs connections", self._ipvs.connections()),
            *(found for each in self._filters for found in each.footprint()),
        ]

    def close(self) -> None:
        if not self._open:
            return
        services = list(self._services.values())
        with Undo() as undo:
            self.remove(services)
            undo(partial(self.apply, services))
            for each in self._filters:
                each.clear()
                undo(each.open)
            self._unreserve()
            undo(self._reserve)
            self._settings.put_back(self)
        self.release()

    def release(self) -> None:
        self._open = False
        self._ipvs.close()
        for each in self._filters:
            each.close()

    def _known(self, services: Sequence[Service]) -> list[Service]:
        return [self._services[service.name] for service in services if service.name in self._services]

    def _reserve(self) -> None:
        """Have the namespace answer ARP for the address that stands for a backend that reaches itself."""
        if self._rules.reserved:
            LocalRoutes().own(self._site.netns, self._site.interface, [self._rules.reserved])

    def _unreserve(self) -> None:
        if self._rules.reserved:
            LocalRoutes().disown(self._site.netns, self._site.interface, [self._rules.reserved])

    def _look(self) -> dict[str, object]:
        """Return the facts for the guard: the number of virtual services, and what tells of our tables."""
        return {"services": self._ipvs.count(), **{k: v for each in self._filters for k, v in each.look().items()}}


def _filters(site: Site, rules: Rules) -> Iterator[Filter]:
    """Yield the tables of a site. What finds a service is in the last one, for it is programmed last and goes first."""
    fixed, base = rules.fixed(), rules.base()
    if NAT in fixed:
        yield IptablesTable(site.netns, NAT, fixed[NAT])
    if base:
        yield NftTable(site.netns, rules.table, base, rules.first())
    if MANGLE in fixed:
        yield IptablesTable(site.netns, MANGLE, fixed[MANGLE])


def _sysctls(knobs: IpvsKnobs, tracked: bool) -> dict[str, str]:
    """Return the sysctls that the knobs ask for."""
    wanted = {key: getattr(knobs, key) for key in _SETTINGS}
    if wanted["conntrack"] is None and tracked:
        wanted["conntrack"] = 1
    return {f"net.ipv4.vs.{key}": str(value) for key, value in wanted.items() if value is not None}
