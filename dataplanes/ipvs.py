"""IPVS: one fwmark service per VIP, because only fwmark and persistent services may mean "all ports"
(net/netfilter/ipvs/ip_vs_core.c, ip_vs_schedule: "port zero only supported in persistent services").

A mangle rule per service marks what is sent to its VIP; the mark selects the IPVS service; destinations have port 0, so
the packet's own port is kept. Where SNAT is used `net.ipv4.vs.conntrack` must be 1, or it silently does nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.errors import KernelRefused
from dataplanes.kernel import iptables, sysctl
from dataplanes.kernel.ipvs import DIRECT_ROUTE, MASQUERADE, Ipvs
from dataplanes.kernel.netlink import Request
from dataplanes.kernel.netns import inside
from dataplanes.model import Backend, Service
from dataplanes.requirements import Feature, Requirement, Tool

_FIRST_MARK = 0x101  # swarm counts up from 0x100, where its ingress network is


_Switch = Annotated[int, Meta(ge=0, le=1)]
_ReuseMode = Annotated[int, Meta(ge=0, le=3)]  # bits (Documentation/networking/ipvs-sysctl.rst)


class Knobs(Struct, frozen=True):
    """What changed between Docker 1.12.0 and 18.03, and the IPVS settings users fought with. None: kernel default.

    (moby/libnetwork#1877: lo; #1566: icmp; #2112: weight 0; moby/moby#40374: mute, which Docker has not.)
    """

    snat: Annotated[bool, Meta(description="1.12.0 had none: a task could not reach its own service's others")] = True
    vip_on: Annotated[Literal["eth0", "lo"], Meta(description="where a task has its VIP: lo since 17.09")] = "eth0"
    icmp: Annotated[bool, Meta(description="a ping to a VIP goes to the container itself: 1.13 to 18.03")] = False
    mute: Annotated[bool, Meta(description="what conntrack calls INVALID ends no connection")] = False
    weight0: Annotated[bool, Meta(description="a backend is drained before it is deleted: since 18.06")] = False
    conntrack: Annotated[_Switch | None, Meta(description="net.ipv4.vs.conntrack; none: as SNAT needs it")] = None
    conn_reuse_mode: Annotated[_ReuseMode | None, Meta(description="net.ipv4.vs.conn_reuse_mode")] = None
    expire_nodest_conn: Annotated[_Switch | None, Meta(description="net.ipv4.vs.expire_nodest_conn")] = None
    expire_quiescent_template: Annotated[_Switch | None, Meta(description="net.ipv4.vs.expire_quiescent_template")] = (
        None
    )


_TWEAKS = {"conn_reuse_mode": 0, "expire_nodest_conn": 1, "expire_quiescent_template": 1}
"""The three sysctls Docker came to set in its LB namespace (moby/libnetwork#2154, #2491)."""

TWEAKED = replace(Knobs(), **_TWEAKS)
MODERN = replace(TWEAKED, weight0=True, mute=True)

DOCKER: dict[str, Knobs] = {
    "1.12.0": Knobs(snat=False),
    "1.12.6": Knobs(),
    "1.12.6-tweaked": TWEAKED,
    "1.13": Knobs(icmp=True),
    "17.09": Knobs(icmp=True, vip_on="lo"),
    "18.03": Knobs(icmp=True, vip_on="lo"),
    "modern": MODERN,
}


class IpvsMechanism(Mechanism):
    """IPVS with the knobs of one Docker version."""

    name = "ipvs"

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs
        self._marks: dict[tuple[str, str], int] = {}
        self._next = _FIRST_MARK

    def requires(self) -> tuple[Requirement, ...]:
        return (
            Feature("IP_VS", "ip_vs", "IP virtual server"),
            Feature("IP_VS_RR", "ip_vs_rr", "the round-robin scheduler"),
            Feature("IP_VS_PROTO_TCP", "ip_vs", "IPVS of TCP"),
            Feature("IP_VS_PROTO_UDP", "ip_vs", "IPVS of UDP"),
            Feature("IP_VS_NFCT", "ip_vs", "net.ipv4.vs.conntrack, which SNAT after IPVS needs"),
            Feature("NETFILTER_XT_MATCH_IPVS", "xt_ipvs", "SNAT of IPVS connections only"),
            Feature("NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", "telling segments of no connection from others"),
            Feature("NETFILTER_XT_MARK", "xt_mark", "marking what is sent to a VIP"),
            Feature("IP_NF_MANGLE", "iptable_mangle", "marking what is sent to a VIP"),
            Feature("IP_NF_NAT", "iptable_nat", "SNAT of IPVS connections"),
            Feature("NETFILTER_XT_NAT", "xt_nat", "SNAT of IPVS connections"),
            Tool("iptables-legacy-restore", "iptables", "the mark and SNAT rules"),
        )

    def mark(self, service: Service) -> int:
        """The service's fwmark: one per service and network, the same at every site, never used again."""
        key = service.network, service.name
        if key not in self._marks:
            self._marks[key] = self._next
            self._next += 1
        return self._marks[key]

    def open(self, site: Site) -> Director:
        return _IpvsDirector(self, site)


class _IpvsDirector(Director):
    def __init__(self, mechanism: IpvsMechanism, site: Site) -> None:
        self._mechanism = mechanism
        self._site = site
        self._chain = "OUTPUT" if site.hook == "output" else "INPUT"
        self._forward = DIRECT_ROUTE if site.reply == "direct" else MASQUERADE
        self._snat = mechanism.knobs.snat if site.hook == "output" else site.reply != "direct"
        self._ipvs = Ipvs(site.netns)
        self._services: dict[str, Service] = {}
        self._hairpins: set[str] = set()
        self._nat: list[str] = []
        self._mute: list[str] = []
        self._before = self._set_sysctls()
        if self._snat and site.reply != "hairpin-snat":
            # Only this subnet: a container on two networks must not be SNATed to the wrong one (moby/libnetwork#1396).
            self._add_nat([f"-A POSTROUTING -d {site.subnet} -m ipvs --ipvs -j SNAT --to-source {site.address}"])
            if mechanism.knobs.mute:
                self._mute = _muting(site)
                iptables.program(site.netns, "mangle", self._mute)

    def apply(self, services: Sequence[Service]) -> None:
        # A service is ready behind its mark before anything is marked; on failure what was added goes again.
        fresh = [service for service in services if service.name not in self._services]
        changes, undo = self._plan(services)
        try:
            self._ipvs.send(changes)
            self._add_hairpins(services)
            self._mark("-A", fresh)
        except KernelRefused:
            self._ipvs.send(undo, ignore=(errno.ENOENT, errno.EEXIST, errno.ESRCH))
            raise
        self._services.update((service.name, service) for service in services)

    def remove(self, services: Sequence[Service]) -> None:
        gone = [service for service in services if service.name in self._services]
        self._mark("-D", gone)
        self._ipvs.send((self._ipvs.del_service(self._mechanism.mark(s)) for s in gone), ignore=(errno.ESRCH,))
        for service in gone:
            del self._services[service.name]
        self._drop_hairpins()

    def counters(self) -> list[Counter]:
        names = {self._mechanism.mark(service): service.name for service in self._services.values()}
        return [
            Counter(self._site.netns, names[s.fwmark], d.address, d.connections, d.packets, d.bytes)
            for s in self._ipvs.services()
            if s.fwmark in names
            for d in s.destinations
        ]

    def footprint(self) -> list[Footprint]:
        netns = self._site.netns
        with inside(netns), open("/proc/thread-self/net/ip_vs_conn", encoding="ascii") as file:
            connections = sum(1 for _ in file) - 1
        destinations = sum(len(self._wanted(service)) for service in self._services.values())
        return [
            Footprint(netns, "ipvs services", len(self._services)),
            Footprint(netns, "ipvs destinations", destinations),
            Footprint(netns, "ipvs connections", connections),
            Footprint(netns, "mangle rules", len(self._mute) + len(self._services)),
            Footprint(netns, "nat rules", len(self._nat)),
        ]

    def close(self) -> None:
        self.remove(list(self._services.values()))
        if self._nat:
            iptables.withdraw(self._site.netns, "nat", [rule.replace("-A", "-D", 1) for rule in reversed(self._nat)])
            self._nat = []
        if self._mute:
            iptables.withdraw(self._site.netns, "mangle", [rule.replace("-A", "-D", 1) for rule in self._mute])
            self._mute = []
        sysctl.write(self._site.netns, self._before)
        self._before = {}
        self._ipvs.close()

    def release(self) -> None:
        self._ipvs.close()

    def _wanted(self, service: Service) -> dict[str, Backend]:
        drains = self._mechanism.knobs.weight0
        return {backend.address: backend for backend in service.backends if backend.weight or drains}

    def _plan(self, services: Sequence[Service]) -> tuple[list[Request], list[Request]]:
        """Requests that bring the services about, and those that undo them. Destinations are added before any goes."""
        do: list[Request] = []
        undo: list[Request] = []
        ipvs, forward = self._ipvs, self._forward
        for service in services:
            mark, new = self._mechanism.mark(service), self._wanted(service)
            known = self._services.get(service.name)
            old = self._wanted(known) if known else {}
            if known is None:
                do.append(ipvs.add_service(mark))
                undo.append(ipvs.del_service(mark))
            for address, backend in new.items():
                if address not in old:
                    do.append(ipvs.add_destination(mark, address, forward, backend.weight))
                    if known:
                        undo.append(ipvs.del_destination(mark, address))
                elif old[address] != backend:
                    do.append(ipvs.set_destination(mark, address, forward, backend.weight))
                    undo.append(ipvs.set_destination(mark, address, forward, old[address].weight))
            for address, backend in old.items():
                if address not in new:
                    do.append(ipvs.del_destination(mark, address))
                    undo.append(ipvs.add_destination(mark, address, forward, backend.weight))
        return do, undo

    def _mark(self, action: str, services: Sequence[Service]) -> None:
        if not services:
            return
        marks = [(service.vip, self._mechanism.mark(service)) for service in services]
        rules = [f"{action} {self._chain} -d {vip}/32 -j MARK --set-xmark {mark:#x}/0xffffffff" for vip, mark in marks]
        change = iptables.program if action == "-A" else iptables.withdraw
        change(self._site.netns, "mangle", rules)
        if self._mechanism.knobs.icmp and self._site.hook == "output":
            echo = "-p icmp -m icmp --icmp-type 8 -j DNAT --to-destination 127.0.0.1"
            change(self._site.netns, "nat", [f"{action} OUTPUT -d {vip}/32 {echo}" for vip, _ in marks])

    def _add_hairpins(self, services: Sequence[Service]) -> None:
        """SNAT a backend's connection to itself, and no other: it would not accept its own address from outside."""
        if self._site.reply != "hairpin-snat":
            return
        new = {backend.address for service in services for backend in service.backends} - self._hairpins
        self._add_nat([self._hairpin(address) for address in sorted(new)])
        self._hairpins |= new

    def _drop_hairpins(self) -> None:
        used = {backend.address for service in self._services.values() for backend in service.backends}
        gone = [self._hairpin(address) for address in sorted(self._hairpins - used)]
        if gone:
            iptables.withdraw(self._site.netns, "nat", [rule.replace("-A", "-D", 1) for rule in gone])
            self._nat = [rule for rule in self._nat if rule not in gone]
            self._hairpins &= used

    def _hairpin(self, address: str) -> str:
        target = f"-m ipvs --ipvs -j SNAT --to-source {self._site.address}"
        return f"-A POSTROUTING -s {address}/32 -d {address}/32 {target}"

    def _add_nat(self, rules: list[str]) -> None:
        if rules:
            iptables.program(self._site.netns, "nat", rules)
            self._nat += rules

    def _set_sysctls(self) -> dict[str, str]:
        """Set what the knobs ask for; returns the values before, to be put back."""
        knobs = self._mechanism.knobs
        wanted = {key: getattr(knobs, key) for key in ("conntrack", *_TWEAKS)}
        if wanted["conntrack"] is None and self._snat:
            wanted["conntrack"] = 1
        keys = {f"net.ipv4.vs.{key}": str(value) for key, value in wanted.items() if value is not None}
        before = {key: sysctl.read(self._site.netns, key) for key in keys}
        sysctl.write(self._site.netns, keys)
        return {key: value for key, value in before.items() if value is not None and value != keys[key]}


def _muting(site: Site) -> list[str]:
    """Rules that keep conntrack, which SNAT is done by, from ending connections over a segment ahead of their window.

    It takes such a one for no connection's (moby/moby#40374). A backend's is not translated back, so the kernel answers
    it by a reset: that is dropped. A client's, which IPVS sends on, gets no SNAT, or as a new connection's another
    source port, and the backend would answer by a reset: the segment itself is dropped.
    """
    reset = f"-s {site.address}/32 -d {site.subnet} -p tcp -m tcp --tcp-flags RST RST -m conntrack --ctstate INVALID"
    segment = f"-d {site.subnet} -p tcp -m conntrack --ctstate INVALID,NEW -m ipvs --ipvs -m tcp ! --syn"
    return [f"-A OUTPUT {reset} -j DROP", f"-A POSTROUTING {segment} -j DROP"]
