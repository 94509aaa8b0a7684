"""What packets meet at a site besides IPVS: iptables rules, and one nft table, as text. Pure: it knows no kernel.

Some rules are there whatever the services are; the others are entries that a service has, and several may have the same
one. The nft table, as far as the knobs ask for it (set and map names as in the ruleset):

    marking          ip daddr -> @marks -> the packet's mark, by which IPVS finds the service
    nat-postrouting  connections to @vips, or from one of @hairpins to itself, get the site's address as their source
    leaving          a packet from one of @hairpins to itself gets the subnet's first address as its source
    coming           a packet to that address goes to `answers`
    answers          it goes to its own sender: it is the answer to such a packet. If it is an ICMP error, the quoted
                     packet gets its own source back first, or IPVS would not find the connection

The subnet's first address is the network's own name and nobody's (claims.py refuses it for everything), and Linux takes
it for an ordinary one since 5.14 (net/ipv4/fib_frontend.c, fib_add_ifaddr). Whatever is sent to it is an answer to such
a packet, so nothing needs to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, ip_network

from dataplanes.base import Site
from dataplanes.filters import Entry
from dataplanes.ipvs_knobs import ContainerKnobs, IpvsKnobs
from dataplanes.kernel.nft_expressions import NETWORK, TRANSPORT, copy, equal
from dataplanes.model import Service
from dataplanes.nft_rules import table_name

MANGLE, NAT = "mangle", "nat"
MARKS, VIPS, HAIRPINS = "marks", "vips", "hairpins"
_NOT_SYN = "tcp flags & (fin | syn | rst | ack) != syn"


class Rules:
    """The rules and entries of one site."""

    def __init__(self, site: Site, knobs: IpvsKnobs, mark: Callable[[Service], int]) -> None:
        self._site = site
        self._knobs = knobs
        self._mark = mark
        self._back = "none" if site.reply == "direct" else knobs.back
        self._every = site.reply != "hairpin-snat"  # every connection gets the site's address, not only hairpins
        self.table = table_name(site.network)
        self._ip_table = f"ip {self.table}"

    @property
    def tracked(self) -> bool:
        """True if connection tracking changes the source address."""
        return self._back in ("iptables", "nft")

    @property
    def reserved(self) -> str:
        """The address that stands for a backend that reaches itself, or nothing."""
        return str(ip_network(self._site.subnet)[0]) if self._back == "stateless" else ""

    # -- whatever the services are -------------------------------------------------------------------------------

    def fixed(self) -> dict[str, list[str]]:
        """Return the iptables rules that do not depend on services, for each table that may have rules."""
        site, found = self._site, dict[str, list[str]]()
        if self._back == "iptables" or self._echo:
            found[NAT] = []
        if self._back == "iptables" and self._every:
            # The rule covers only this subnet: a container on two networks must not be SNATed to the wrong one
            # (moby/libnetwork#1396).
            found[NAT] = [f"POSTROUTING -d {site.subnet} -m ipvs --ipvs -j SNAT --to-source {site.address}"]
        muted = _muting(site) if self._back == "iptables" and self._every and self._knobs.mute else []
        if muted or self._knobs.choose == "rule":
            found[MANGLE] = muted
        return found

    def base(self) -> list[str]:
        """Return the part of the nft table that does not depend on services. Nothing: there is no such table."""
        lines = [*self._marking(), *self._snat(), *self._stateless()]
        return [f"create table {self._ip_table}", *lines] if lines else []

    def _marking(self) -> Iterator[str]:
        if self._knobs.choose != "map":
            return
        hook, entry = ("output", "") if self._site.hook == "output" else ("input", f'iifname "{self._site.interface}" ')
        yield f"add map {self._ip_table} {MARKS} {{ type ipv4_addr : mark; }}"
        yield from self._chain("marking", "filter", hook, -150, f"{entry}meta mark set ip daddr map @{MARKS}")

    def _snat(self) -> Iterator[str]:
        if self._back != "nft":
            return
        site = self._site
        exit_ = "" if site.hook == "output" else f'oifname "{site.interface}" '
        # IPVS changes where a tracked packet goes without telling, so the entry still knows the VIP as its destination.
        match = f"ct original ip daddr @{VIPS}"
        if self._every:
            yield f"add set {self._ip_table} {VIPS} {{ type ipv4_addr; }}"
        else:
            yield f"add set {self._ip_table} {HAIRPINS} {{ type ipv4_addr . ipv4_addr; }}"
            match = f"ip saddr . ip daddr @{HAIRPINS}"
        yield from self._chain("nat-postrouting", "nat", "postrouting", 100, f"{exit_}{match} snat to {site.address}")
        if self._every and self._knobs.mute:
            yield from self._mute(exit_)

    def _mute(self, exit_: str) -> Iterator[str]:
        """Yield rules that do the same as `_muting`. nft has no match for packets that IPVS has sent on."""
        site = self._site
        resets = f"ip saddr {site.address} ip daddr {site.subnet} tcp flags & rst == rst ct state invalid drop"
        if site.hook == "output":
            late = f"ip daddr @{VIPS} {_NOT_SYN} ct state invalid,new drop"
            yield from self._chain("mute", "filter", "output", -150, resets, late)
        else:
            late = f"{exit_}ip saddr != {site.address} ip daddr {site.subnet} {_NOT_SYN} ct state invalid,new drop"
            yield from self._chain("mute", "filter", "output", -150, resets)
            yield from self._chain("late", "filter", "postrouting", -150, late)

    def _stateless(self) -> Iterator[str]:
        if self._back != "stateless":
            return
        table = self._ip_table
        away = f"ip saddr . ip daddr @{HAIRPINS} ip saddr set {self.reserved}"
        yield f"add set {self._ip_table} {HAIRPINS} {{ type ipv4_addr . ipv4_addr; }}"
        yield from self._chain("leaving", "filter", "output", 100, away)
        yield from (f"add chain {table} answers", f"add rule {table} answers ip daddr set ip saddr")
        yield from self._chain("coming", "filter", "prerouting", -150, f"ip daddr {self.reserved} goto answers")

    def first(self) -> dict[str, list[bytes]]:
        """Return the rule that nft's language does not have, by the chain that it is put in front of.

        Both headers are without options. The quoted header's checksum changes together with its source, so the checksum
        of ICMP, which covers both, stays right.
        """
        if not self.reserved:
            return {}
        quoted = 20 + 8  # the quoted header is behind those of IP and ICMP
        error = [(NETWORK, 0, b"\x45"), (NETWORK, 9, b"\x01"), (TRANSPORT, 0, b"\x03")]  # destination unreachable
        ours = equal(NETWORK, quoted + 12, IPv4Address(self.reserved).packed)
        own_source = copy(NETWORK, source=12, target=quoted + 12, length=4, checksum=quoted + 10)
        return {"answers": [*(equal(*each) for each in error), ours, own_source]}

    def _chain(self, name: str, kind: str, hook: str, priority: int, *rules: str) -> Iterator[str]:
        yield f"add chain {self._ip_table} {name} {{ type {kind} hook {hook} priority {priority}; }}"
        yield from (f"add rule {self._ip_table} {name} {rule}" for rule in rules)

    # -- what services have ----------------------------------------------------------------------------------------

    def entries(self, services: Sequence[Service]) -> Iterator[Entry]:
        """Yield the entries of services: those of the way back first, then those by which a service is found."""
        for service in services:
            yield from self._of_the_way_back(service)
        for service in services:
            mark = self._mark(service) if self._knobs.choose != "port" else 0
            if self._knobs.choose == "rule":
                chain = "OUTPUT" if self._site.hook == "output" else "INPUT"
                yield MANGLE, f"{chain} -d {service.vip}/32 -j MARK --set-xmark {mark:#x}/0xffffffff"
            elif self._knobs.choose == "map":
                yield MARKS, f"{service.vip} : {mark:#x}"

    def _of_the_way_back(self, service: Service) -> Iterator[Entry]:
        if self._back != "none" and not self._every:
            # A backend would not accept a packet from its own address that comes from outside.
            for address in dict.fromkeys(backend.address for backend in service.backends):
                if self._back == "iptables":
                    snat = f"-m ipvs --ipvs -j SNAT --to-source {self._site.address}"
                    yield NAT, f"POSTROUTING -s {address}/32 -d {address}/32 {snat}"
                else:
                    yield HAIRPINS, f"{address} . {address}"
        if self._back == "nft" and self._every:
            yield VIPS, service.vip
        if self._echo:
            yield NAT, f"OUTPUT -d {service.vip}/32 -p icmp -m icmp --icmp-type 8 -j DNAT --to-destination 127.0.0.1"

    @property
    def _echo(self) -> bool:
        return isinstance(self._knobs, ContainerKnobs) and self._knobs.icmp


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
