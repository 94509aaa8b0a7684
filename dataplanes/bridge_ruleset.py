"""The nftables tables of a bridge as text. The rules that are no text are in bridge_rules.py. It knows no kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dataplanes import bridge_rules
from dataplanes.base import Site
from dataplanes.bridge_rules import (
    ANSWERS,
    BACK,
    CLIENTS,
    FLAG,
    FORTH,
    FRAGMENTS,
    MACS,
    OWNED,
    TO_CLIENT,
    TO_VIP,
    TURN,
    TURNS,
)
from dataplanes.nft_rules import BACKENDS, HAIRPINS, SERVICES, VIPS, Ruleset, Scheduler, Slots

_HOOK = "type filter hook prerouting priority -300;"
_FRAGMENTED = 4096  # packets whose fragments are on their way
_VIPS = 65_536
"""A map that may not get any number of elements has a cheaper look-up (nft_set_hash.c, nft_hash_fast_ops)."""


class BridgeRuleset(Ruleset):
    """The state programmed at a bridge."""

    def __init__(self, site: Site, scheduler: Scheduler, connections: int) -> None:
        self.macs: dict[str, str] = {}  # address -> MAC of each station
        self._room = connections
        super().__init__(site, scheduler)

    family = "bridge"

    def _elements(self, verb: str, name: str, elements: Sequence[str]) -> Iterator[str]:
        if name == VIPS and elements:
            yield f"{verb} element ip {self.table} {VIPS} {{ {', '.join(elements)} }}"
            name, elements = OWNED, [f"{each} : goto to-vip" if verb == "add" else each for each in elements]
        yield from super()._elements(verb, name, elements)

    def delete(self) -> str:
        both = (f"{family} {self.table}" for family in ("ip", self.family))
        return "\n".join(f"add table {each}\ndelete table {each}" for each in both)

    def anew(self, slots: Mapping[str, Slots]) -> str:
        empty = BridgeRuleset(self.site, self.scheduler, self._room)
        return "\n".join((self.delete(), self.base(), empty.acquaint(self.macs), empty.change(slots).text))

    def ready(self) -> str:
        # The kernel makes a map for the number of elements that it may get, and walks through it every second. A map
        # that loses an element becomes as small as what it has (nft_set_hash.c: nelem_hint, automatic_shrinking).
        key = "0.0.0.0 . 0.0.0.0 . 0 . 0"
        shrunk = (
            line
            for name in (*FORTH, *BACK)
            for verb, what in (("add", f"{key} timeout 1s : 0:0:0:0:0:0 . {key}"), ("delete", key))
            for line in self._elements(verb, name, [what])
        )
        return "\n".join((*shrunk, f"add chain {self._in} frames {{ {_HOOK} policy accept; }}"))

    def acquaint(self, macs: Mapping[str, str]) -> str:
        """Return the transaction that makes these the stations."""
        gone = [address for address, mac in self.macs.items() if macs.get(address) != mac]
        come = [f"{address} : {mac}" for address, mac in macs.items() if self.macs.get(address) != mac]
        return "\n".join((*self._elements("delete", MACS, gone), *self._elements("add", MACS, come)))

    def _numbered(self, name: str) -> tuple[str, str, str]:
        number, modulus = ("inc" if self.scheduler == "rr" else "random"), name.split("-")[1]
        rule = f"add rule {self._in} {name}"
        return (
            f"add chain {self._in} {name}",
            f"{rule} meta mark set numgen {number} mod {modulus} jump enter",
            # There may be no such slot any more (see Ruleset).
            f"{rule} meta mark set 0 jump enter",
        )

    def size(self) -> dict[str, int]:
        rules = sum(1 for _ in self.rules())
        found = super().size()
        fixed = sum(line.count(" : ") for line in self._base if line.startswith("add element"))
        elements = found["elements"] + len(self.slots) + len(self.macs) + fixed
        return found | {"rules": found["rules"] + rules, "elements": elements}

    def _fixed(self) -> list[str]:
        table, ip = self._in, f"ip {self.table}"
        key = "ipv4_addr . ipv4_addr . inet_service . inet_service"
        made = f"type {key} : ether_addr . {key}; flags dynamic,timeout; size {self._room};"
        first = "typeof ip daddr . ip saddr . ip protocol . ip id : ether daddr . ip saddr . ip daddr"
        chains = [name for name in dict.fromkeys(name for name, _ in self.rules()) if name != "frames"]
        return [
            f"create table {ip}",
            f"create table {table}",
            f"add set {ip} {VIPS} {{ type ipv4_addr; }}",
            f"add map {table} {BACKENDS} {{ typeof ip daddr . numgen inc mod 2 : ip daddr; counter; }}",
            f"add map {table} {SERVICES} {{ type ipv4_addr : verdict; counter; }}",
            f"add set {table} {HAIRPINS} {{ type ipv4_addr . ipv4_addr; }}",
            f"add map {table} {MACS} {{ type ipv4_addr : ether_addr; }}",
            f"add map {table} {OWNED} {{ type ipv4_addr : verdict; size {_VIPS}; }}",
            f"add set {table} {CLIENTS} {{ type ipv4_addr; flags dynamic,timeout; }}",
            *(f"add map {table} {name} {{ {made} }}" for name in (*FORTH, *BACK)),
            f"add map {table} {FRAGMENTS} {{ {first}; flags dynamic,timeout; size {_FRAGMENTED}; }}",
            *(f"add chain {table} {name}" for name in chains),
            *self._turns(TURNS, TO_VIP),
            *self._turns(ANSWERS, TO_CLIENT),
            # Until all rules are there, nothing may pass: a reply that is not translated would be reset.
            f"add chain {table} frames {{ {_HOOK} policy drop; }}",
            f"add chain {ip} unserved",
            f"add rule {ip} unserved meta l4proto icmp return",
            f"add rule {ip} unserved tcp flags & syn != syn reject with tcp reset",
            f"add rule {ip} unserved reject with icmp port-unreachable",
            f"add chain {ip} guard {{ type filter hook input priority 0; }}",
            f"add rule {ip} guard ip daddr @{VIPS} goto unserved",
        ]

    def _turns(self, name: str, chains: Sequence[tuple[int, int, str]]) -> Iterator[str]:
        """Yield the commands for a map from the flags of a TCP segment to the chain that handles it.

        Each chain comes with the bits that it looks at, and with those that are set. The first one that fits is taken.
        """
        found = {
            flags: next(chain for mask, wanted, chain in chains if flags & mask == wanted)
            for flags in range(TURN + 1)
            if not flags & ~TURN
        }
        yield f"add map {self._in} {name} {{ typeof @th,96,32 : verdict; size {len(found)}; }}"
        yield from self._elements("add", name, [f"{flags * FLAG:#010x} : goto {to}" for flags, to in found.items()])

    def rules(self) -> Iterator[tuple[str, list[bytes]]]:
        return bridge_rules.rules()
