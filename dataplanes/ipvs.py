"""IPVS, with one fwmark service per VIP.

Only fwmark and persistent services may mean "all ports" (net/netfilter/ipvs/ip_vs_core.c, ip_vs_schedule: "port zero
only supported in persistent services"). A mangle rule per service marks packets to its VIP, and the mark selects the
IPVS service. Destinations have port 0, so the packet's own port is kept. SNAT needs `net.ipv4.vs.conntrack` = 1;
without it the SNAT rule silently does nothing.
"""

from __future__ import annotations

import errno
from collections import Counter as Count
from collections.abc import Iterator, Sequence
from functools import partial

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.errors import BenchError
from dataplanes.guard import Guard
from dataplanes.ipvs_knobs import TWEAKS, IpvsKnobs
from dataplanes.kernel import iptables, sysctl
from dataplanes.kernel.ipvs import DIRECT_ROUTE, MASQUERADE, Ipvs
from dataplanes.kernel.netlink import NetlinkError, Request
from dataplanes.kernel.netns import inside
from dataplanes.kernel.undo import Undo
from dataplanes.model import Backend, Service
from dataplanes.requirements import Feature, Requirement, Tool

_FIRST_MARK = 0x101  # swarm counts up from 0x100, which is its ingress network


class IpvsMechanism(Mechanism):
    """IPVS with the knobs of one Docker version."""

    name = "ipvs"

    def __init__(self, knobs: IpvsKnobs) -> None:
        self.knobs = knobs
        self._marks: dict[tuple[str, str], int] = {}
        self._next = _FIRST_MARK
        self.guards: dict[str, Guard] = {}  # namespace -> the guard of its directors

    @classmethod
    def requires(cls, knobs: IpvsKnobs) -> tuple[Requirement, ...]:
        matching = "matching segments that belong to no connection"
        muting = (Feature("NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", matching),) if knobs.mute else ()
        return (
            Feature("IP_VS", "ip_vs", "IP virtual server"),
            Feature("IP_VS_RR", "ip_vs_rr", "the round-robin scheduler"),
            Feature("IP_VS_PROTO_TCP", "ip_vs", "IPVS of TCP"),
            Feature("IP_VS_PROTO_UDP", "ip_vs", "IPVS of UDP"),
            Feature("IP_VS_NFCT", "ip_vs", "net.ipv4.vs.conntrack, which SNAT after IPVS needs"),
            Feature("NETFILTER_XT_MATCH_IPVS", "xt_ipvs", "SNAT of IPVS connections only"),
            *muting,
            Feature("NETFILTER_XT_MARK", "xt_mark", "marking packets to a VIP"),
            Feature("IP_NF_MANGLE", "iptable_mangle", "marking packets to a VIP"),
            Feature("IP_NF_NAT", "iptable_nat", "SNAT of IPVS connections"),
            Feature("NETFILTER_XT_NAT", "xt_nat", "SNAT of IPVS connections"),
            Tool("iptables-legacy-restore", "iptables", "the mark and SNAT rules"),
        )

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


_Undoable = tuple[Request, list[Request]]
"""A request to IPVS, and the requests that undo it."""
_ALREADY = (errno.ENOENT, errno.EEXIST, errno.ESRCH)


class _IpvsDirector(Director):
    def __init__(self, mechanism: IpvsMechanism, site: Site) -> None:
        self._mechanism = mechanism
        self._site = site
        self._chain = "OUTPUT" if site.hook == "output" else "INPUT"
        self._forward = DIRECT_ROUTE if site.reply == "direct" else MASQUERADE
        self._snat = mechanism.knobs.snat if site.hook == "output" else site.reply != "direct"
        self._echo = mechanism.knobs.icmp and site.hook == "output"
        self._services: dict[str, Service] = {}
        self._hairpins: Count[str] = Count()  # backend -> how many services have it
        self._fixed = self._of_the_site()  # table -> rules
        self._settings = sysctl.Settings()
        self._open = True
        self._guard = mechanism.guards.setdefault(site.netns, Guard())
        self._ipvs = Ipvs(site.netns)
        self._tables = iptables.Tables(site.netns)
        try:
            with Undo() as undo:
                self._cleared = self._guard.doubts(self._look())
                undo(partial(self._settings.put_back, self))
                self._settings.set(self, site.netns, self._sysctls())
                for table, rules in self._fixed.items():
                    self._exchange(table, [], rules, undo)
                self._guard.ours(self._look())
        except BenchError:
            self.release()
            raise

    def apply(self, services: Sequence[Service]) -> None:
        # A service is ready behind its mark before any packet is marked.
        old = self._known(services)
        with Undo() as undo:
            self._send([step for service in services for step in self._steps(service)], undo)
            self._exchange("nat", *self._translations(old, services), undo)
            self._exchange("mangle", self._marks(old), self._marks(services), undo)
            self._note(old, services, undo)

    def remove(self, services: Sequence[Service]) -> None:
        gone = self._known(services)
        with Undo() as undo:
            self._exchange("mangle", self._marks(gone), [], undo)
            self._exchange("nat", *self._translations(gone, ()), undo)
            self._send([self._gone(service) for service in gone], undo)
            self._note(gone, (), undo)

    def _note(self, old: Sequence[Service], new: Sequence[Service], undo: Undo) -> None:
        """Record that the kernel has these services now."""

        def turn(old: Sequence[Service], new: Sequence[Service]) -> None:
            for service in old:
                del self._services[service.name]
            self._services.update((service.name, service) for service in new)
            self._hairpins.subtract(self._uses(old))
            self._hairpins.update(self._uses(new))
            self._hairpins += Count()  # drop the backends that no service has any more

        turn(old, new)
        undo(partial(turn, new, old))
        self._guard.ours(self._look())

    def resync(self) -> None:
        doubts = self._guard.doubts(self._look())
        self._settings.set(self, self._site.netns, self._sysctls())
        self._ipvs.send(self._missing(), ignore=_ALREADY)
        for table in ("nat", "mangle"):
            if rules := self._rules(table):
                there = set(iptables.rules(self._site.netns, table))
                missing = [rule for rule in rules if f"-A {rule}" not in there]
                iptables.exchange(self._site.netns, table, [], missing)
        self._guard.ours(self._look())
        self._cleared = doubts

    def intact(self) -> bool:
        return self._guard.doubts(self._look()) == self._cleared

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
            Footprint(netns, "mangle rules", len(self._rules("mangle"))),
            Footprint(netns, "nat rules", len(self._rules("nat"))),
        ]

    def close(self) -> None:
        if not self._open:
            return
        services = list(self._services.values())
        with Undo() as undo:
            self.remove(services)
            undo(partial(self.apply, services))
            for table, rules in self._fixed.items():
                self._exchange(table, rules, [], undo)
            self._settings.put_back(self)
        self.release()

    def release(self) -> None:
        self._open = False
        self._ipvs.close()
        self._tables.close()

    # -- IPVS ---------------------------------------------------------------------------------------------------

    def _known(self, services: Sequence[Service]) -> list[Service]:
        return [self._services[service.name] for service in services if service.name in self._services]

    def _wanted(self, service: Service) -> dict[str, Backend]:
        drains = self._mechanism.knobs.weight0
        return {backend.address: backend for backend in service.backends if backend.weight or drains}

    def _steps(self, service: Service) -> Iterator[_Undoable]:
        """Yield the steps that program a service. Destinations are added before any is removed."""
        ipvs, forward, mark = self._ipvs, self._forward, self._mechanism.mark(service)
        known, new = self._services.get(service.name), self._wanted(service)
        old = self._wanted(known) if known else {}
        if known is None:
            yield ipvs.add_service(mark), [ipvs.del_service(mark)]
        for address, backend in new.items():
            if address not in old:
                way = [ipvs.del_destination(mark, address)]
                yield ipvs.add_destination(mark, address, forward, backend.weight), way
            elif old[address] != backend:
                way = [ipvs.set_destination(mark, address, forward, old[address].weight)]
                yield ipvs.set_destination(mark, address, forward, backend.weight), way
        for address, backend in old.items():
            if address not in new:
                way = [ipvs.add_destination(mark, address, forward, backend.weight)]
                yield ipvs.del_destination(mark, address), way

    def _gone(self, service: Service) -> _Undoable:
        mark = self._mechanism.mark(service)
        return self._ipvs.del_service(mark), list(self._whole(service))

    def _whole(self, service: Service) -> Iterator[Request]:
        mark = self._mechanism.mark(service)
        yield self._ipvs.add_service(mark)
        for address, backend in self._wanted(service).items():
            yield self._ipvs.add_destination(mark, address, self._forward, backend.weight)

    def _send(self, steps: Sequence[_Undoable], undo: Undo) -> None:
        """Carry out the steps. A step that IPVS refused is not undone, because its object is not ours."""
        refused: frozenset[int] = frozenset()

        def back() -> None:
            done = [way for number, (_, way) in enumerate(steps) if number not in refused]
            self._ipvs.send((each for way in reversed(done) for each in way), ignore=_ALREADY)

        undo(back)
        try:
            self._ipvs.send(request for request, _ in steps)
        except NetlinkError as error:
            refused = error.refused | frozenset(range(error.sent, len(steps)))
            raise

    def _missing(self) -> Iterator[Request]:
        """Yield the requests that lead from the state of IPVS to the applied state."""
        ipvs, there = self._ipvs, {each.fwmark: each for each in self._ipvs.services()}
        for service in self._services.values():
            mark, wanted = self._mechanism.mark(service), self._wanted(service)
            if mark not in there:
                yield from self._whole(service)
                continue
            had = {each.address: each.weight for each in there[mark].destinations}
            for address, backend in wanted.items():
                change = ipvs.set_destination if address in had else ipvs.add_destination
                if had.get(address) != backend.weight:
                    yield change(mark, address, self._forward, backend.weight)
            for address in had.keys() - wanted.keys():
                yield ipvs.del_destination(mark, address)

    # -- rules --------------------------------------------------------------------------------------------------

    def _of_the_site(self) -> dict[str, list[str]]:
        """Return the rules that do not depend on services, by table."""
        if not self._snat or self._site.reply == "hairpin-snat":
            return {}
        # The rule covers only this subnet: a container on two networks must not be SNATed to the wrong one
        # (moby/libnetwork#1396).
        snat = f"POSTROUTING -d {self._site.subnet} -m ipvs --ipvs -j SNAT --to-source {self._site.address}"
        return {"nat": [snat], "mangle": _muting(self._site) if self._mechanism.knobs.mute else []}

    def _rules(self, table: str) -> list[str]:
        """Return all our rules in a table."""
        services = list(self._services.values())
        if table == "mangle":
            return self._fixed.get(table, []) + self._marks(services)
        return [*self._fixed.get(table, []), *map(self._hairpin, self._hairpins), *self._echoes(services)]

    def _marks(self, services: Sequence[Service]) -> list[str]:
        marks = [(service.vip, self._mechanism.mark(service)) for service in services]
        return [f"{self._chain} -d {vip}/32 -j MARK --set-xmark {mark:#x}/0xffffffff" for vip, mark in marks]

    def _translations(self, old: Sequence[Service], new: Sequence[Service]) -> tuple[list[str], list[str]]:
        """Return the rules of table nat to remove, and those to add."""
        change, users = self._uses(new), self._hairpins
        change.subtract(self._uses(old))
        gone = [self._hairpin(address) for address, by in change.items() if by < 0 and users[address] + by == 0]
        come = [self._hairpin(address) for address, by in change.items() if by > 0 and not users[address]]
        return gone + self._echoes(old), come + self._echoes(new)

    def _echoes(self, services: Sequence[Service]) -> list[str]:
        to = "-p icmp -m icmp --icmp-type 8 -j DNAT --to-destination 127.0.0.1"
        return [f"OUTPUT -d {service.vip}/32 {to}" for service in services] if self._echo else []

    def _uses(self, services: Sequence[Service]) -> Count[str]:
        """Count the backends whose connections to themselves are SNATed.

        A backend would not accept a packet from its own address that comes from outside. No other connection is SNATed.
        """
        if self._site.reply != "hairpin-snat":
            return Count()
        return Count(address for service in services for address in {each.address for each in service.backends})

    def _hairpin(self, address: str) -> str:
        target = f"-m ipvs --ipvs -j SNAT --to-source {self._site.address}"
        return f"POSTROUTING -s {address}/32 -d {address}/32 {target}"

    def _exchange(self, table: str, old: Sequence[str], new: Sequence[str], undo: Undo) -> None:
        stay = {*old} & {*new}
        gone, come = ([rule for rule in rules if rule not in stay] for rules in (old, new))
        iptables.exchange(self._site.netns, table, gone, come)
        undo(partial(iptables.exchange, self._site.netns, table, come, gone))

    def _sysctls(self) -> dict[str, str]:
        """Return the sysctls that the knobs ask for."""
        knobs = self._mechanism.knobs
        wanted = {key: getattr(knobs, key) for key in ("conntrack", *TWEAKS)}
        if wanted["conntrack"] is None and self._snat:
            wanted["conntrack"] = 1
        return {f"net.ipv4.vs.{key}": str(value) for key, value in wanted.items() if value is not None}

    def _look(self) -> dict[str, object]:
        """Return the facts for the guard: the number of services, and the state of our tables.

        Reading a table creates it, so no other table is read.
        """
        ours = {
            "nat": self._fixed or self._hairpins or (self._echo and self._services),
            "mangle": self._fixed.get("mangle") or self._services,
        }
        infos = {table: self._tables.info(table) for table, there in ours.items() if there}
        return {"services": self._ipvs.count(), **infos}


def _muting(site: Site) -> list[str]:
    """Return rules against resets of living connections.

    Conntrack, which does the SNAT, calls a segment ahead of its window INVALID.

    It takes such a segment for one of no connection (moby/moby#40374). A backend's segment is not translated back, so
    the kernel answers it with a reset, and the first rule drops that reset. A client's segment, which IPVS sends on,
    gets no SNAT, or gets another source port as a new connection, and the backend would answer it with a reset. The
    second rule drops the segment itself.
    """
    reset = f"-s {site.address}/32 -d {site.subnet} -p tcp -m tcp --tcp-flags RST RST -m conntrack --ctstate INVALID"
    late = "-m conntrack --ctstate INVALID,NEW -m ipvs --ipvs -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"
    return [f"OUTPUT {reset} -j DROP", f"POSTROUTING -d {site.subnet} -p tcp {late} -j DROP"]
