"""The nftables ruleset of one site as text. It is pure code that knows no kernel.

A packet to a VIP passes these (set and map names as in the ruleset):

    nat chain      ip daddr -> @services -> chain `rr-N-C` of services with N slots
    rr-N-C         ip daddr . (this chain's counter mod N) -> @backends -> dnat, the port is kept
    filter chain   a packet still addressed to one of @vips has no backend: rejected

A slot is a backend's turn. There is one per unit of weight, with the weights reduced by their common divisor. Services
and backends are elements. A change of a service deletes and adds elements, and rewrites nothing else. If the number of
its slots changes, it moves to another chain, whose counter begins at 0. Then the slots begin with the backend whose
turn it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Literal

from msgspec import Struct

from dataplanes.base import Site

Scheduler = Literal["rr", "random"]
Slots = tuple[str, ...]
"""The backends' addresses in the order of their turns. It is empty if no backend may get a new connection."""

VIPS, SERVICES, BACKENDS, HAIRPINS = "vips", "services", "backends", "hairpins"
_COUNTERS = 256  # per number of slots; one octet, so a VIP names its own counter without any bookkeeping


def table_name(network: str) -> str:
    """Return the name of a network's table."""
    return f"vip-{spelled(network)}"


def spelled(name: str) -> str:
    """Spell a name so that nft takes it unquoted: it takes letters, digits and `_.-/`.

    Any other character is spelled in hexadecimal, and so is the slash, which stands between names.
    """
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}_", name)


class Transaction(Struct, frozen=True):
    """One transaction, and the ruleset after it is committed."""

    text: str
    wanted: dict[str, Slots | None]  # VIP -> slots; None: the service is removed
    chains: dict[str, int]  # differences in the number of services that use a chain
    hairpins: dict[str, int]  # differences in the number of services that have a backend
    vacated: list[tuple[str, int]]  # (VIP, slot) whose element, and with it the counter, is removed


class Ruleset:
    """The state programmed at a site. `change` computes a transaction, and `commit` records that the kernel has it."""

    family = "ip"

    def __init__(self, site: Site, scheduler: Scheduler) -> None:
        self.site = site
        self.table = table_name(site.network)
        self.slots: dict[str, Slots] = {}
        self.scheduler = scheduler
        self._chains: Counter[str] = Counter()
        self._hairpins: Counter[str] = Counter()
        self._base = self._fixed()

    @property
    def _in(self) -> str:
        return f"{self.family} {self.table}"

    def _elements(self, verb: str, name: str, elements: Sequence[str]) -> Iterator[str]:
        """Yield the commands that add or delete elements of a set or map, if there are any."""
        if elements:
            yield f"{verb} element {self._in} {name} {{ {', '.join(elements)} }}"

    def base(self) -> str:
        """Return the part that never changes. The kernel refuses it (EEXIST) if the site is taken."""
        return "\n".join(self._base)

    def delete(self) -> str:
        """Return the transaction that removes everything, even if somebody has flushed the ruleset meanwhile."""
        return f"add table ip {self.table}\ndelete table ip {self.table}"

    def rules(self) -> Iterator[tuple[str, list[bytes]]]:
        """Yield the fixed rules that nft's language does not have, each with its chain. They come after all others."""
        yield from ()

    def ready(self) -> str:
        """Return the transaction that comes after these rules, or nothing."""
        return ""

    def anew(self, slots: Mapping[str, Slots]) -> str:
        """Return one transaction that programs everything again with these slots, whatever is there."""
        empty = Ruleset(self.site, self.scheduler)
        return "\n".join((self.delete(), self.base(), empty.change(slots).text))

    def change(self, wanted: Mapping[str, Slots | None]) -> Transaction:
        """Return the transaction that gives these VIPs these slots, or removes them (None)."""
        gone: dict[str, list[str]] = {SERVICES: [], BACKENDS: [], VIPS: []}
        come: dict[str, list[str]] = {BACKENDS: [], VIPS: [], SERVICES: []}
        chains: Counter[str] = Counter()
        hairpins: Counter[str] = Counter()
        vacated: list[tuple[str, int]] = []
        for vip, target in wanted.items():
            old, new = self.slots.get(vip, ()), target or ()
            before, after = self._chain(vip, old), self._chain(vip, new)
            if before != after:
                gone[SERVICES] += [vip] if before else []
                come[SERVICES] += [f"{vip} : goto {after}"] if after else []
                chains.update({after: 1} if after else {})
                chains.subtract({before: 1} if before else {})
            for slot in range(max(len(old), len(new))):
                had, has = old[slot : slot + 1], new[slot : slot + 1]
                if had and had != has:
                    gone[BACKENDS].append(f"{vip} . {slot}")
                    vacated.append((vip, slot))
                if has and had != has:
                    come[BACKENDS].append(f"{vip} . {slot} : {has[0]}")
            if target is None and vip in self.slots:
                gone[VIPS].append(vip)
            elif target is not None and vip not in self.slots:
                come[VIPS].append(vip)
            if self.site.reply == "hairpin-snat":
                hairpins.update(dict.fromkeys(new, 1))
                hairpins.subtract(dict.fromkeys(old, 1))
        new_chains, old_chains = _turnover(self._chains, chains)
        come[HAIRPINS], gone[HAIRPINS] = (
            [f"{address} . {address}" for address in addresses] for addresses in _turnover(self._hairpins, hairpins)
        )
        text = "\n".join(
            (
                *chain.from_iterable(self._numbered(name) for name in new_chains),
                *(
                    line
                    for verb, sets in (("delete", gone), ("add", come))
                    for name, elements in sets.items()
                    for line in self._elements(verb, name, elements)
                ),
                *(f"{verb} chain {self._in} {name}" for name in old_chains for verb in ("flush", "delete")),
            )
        )
        return Transaction(text, dict(wanted), chains, hairpins, vacated)

    def commit(self, change: Transaction) -> None:
        """Record that the kernel has this change now."""
        for vip, target in change.wanted.items():
            if target is None:
                self.slots.pop(vip, None)
            else:
                self.slots[vip] = target
        for total, difference in ((self._chains, change.chains), (self._hairpins, change.hairpins)):
            for key, count in difference.items():
                total[key] += count
                if not total[key]:
                    del total[key]

    def size(self) -> dict[str, int]:
        """Return the number of chains, rules, sets and elements."""
        served = [turns for turns in self.slots.values() if turns]
        added = chain.from_iterable(self._numbered(name) for name in self._chains)
        kinds = Counter(line.split(" ", 2)[1] for line in chain(self._base, added))
        elements = len(self.slots) + len(served) + sum(map(len, served)) + len(self._hairpins)
        return {
            "chains": kinds["chain"],
            "rules": kinds["rule"],
            "sets": kinds["set"] + kinds["map"],
            "elements": elements,
        }

    def _chain(self, vip: str, turns: Slots) -> str:
        """Return the chain of a VIP with these slots, or "" if it has none."""
        if not turns:
            return ""
        if self.scheduler == "random":
            return f"random-{len(turns)}"
        return f"rr-{len(turns)}-{int(vip.rpartition('.')[2]) % _COUNTERS}"

    def _numbered(self, name: str) -> tuple[str, str, str]:
        """Return the commands for a chain that picks a slot."""
        number = "inc" if self.scheduler == "rr" else "random"
        modulus = name.split("-")[1]
        dnat = f"add rule ip {self.table} {name} dnat to ip daddr . numgen"
        return (
            f"add chain ip {self.table} {name}",
            f"{dnat} {number} mod {modulus} map @{BACKENDS}",
            # A packet may look up its service before a transaction is committed, and the backend after it, when the
            # number of slots has shrunk. Slot 0 exists as long as any slot does.
            f"{dnat} inc mod 1 map @{BACKENDS}",
        )

    def _mute(self, guard: str) -> list[str]:
        """Return rules against resets of living connections.

        Connection tracking takes a segment ahead of its window for INVALID.

        It does not translate the segment back, so the segment belongs to no connection here, and the kernel answers
        with a reset that ends the connection (moby/moby#40374, kubernetes/kubernetes#74839). That reset belongs to no
        connection either, so it can be dropped. The segment itself is not dropped, because it may not belong to a VIP
        at all. Where replies are bridged the client would send the reset; there conntrack keeps no window
        (placements.py, OverlayPlacement).
        """
        if self.site.reply == "hairpin-snat":
            return []
        chain, lines = "guard", list[str]()
        if guard != "output":
            chain = "mute"
            lines = [f"add chain ip {self.table} mute {{ type filter hook output priority 0; }}"]
        reset = f"ct state invalid tcp flags & rst == rst ip daddr {self.site.subnet}"
        return [*lines, f"add rule ip {self.table} {chain} {reset} drop"]

    def _fixed(self) -> list[str]:
        site, table = self.site, f"ip {self.table}"
        hook, guard, entry = ("output", "output", "")
        if site.hook != "output":
            hook, guard, entry = ("prerouting", "input", f'iifname "{site.interface}" ')
        lines = [
            f"create table {table}",
            f"add set {table} {VIPS} {{ type ipv4_addr; }}",
            f"add map {table} {BACKENDS} {{ typeof ip daddr . numgen inc mod 2 : ip daddr; counter; }}",
            f"add map {table} {SERVICES} {{ type ipv4_addr : verdict; counter; }}",
            f"add chain {table} unserved",
            f"add rule {table} unserved meta l4proto icmp return",
            # An answer to a segment that conntrack takes for out of window would end a living connection
            # (kubernetes/kubernetes#74839).
            f"add rule {table} unserved ct state invalid drop",
            # In the middle of a connection whose last backend is gone, a reset is needed: TCP takes "port unreachable"
            # for a passing fault.
            f"add rule {table} unserved tcp flags & syn != syn reject with tcp reset",
            f"add rule {table} unserved reject with icmp port-unreachable",
            f"add chain {table} guard {{ type filter hook {guard} priority 0; }}",
            f"add rule {table} guard ip daddr @{VIPS} goto unserved",
            *self._mute(guard),
            f"add chain {table} nat-{hook} {{ type nat hook {hook} priority -100; }}",
            f"add rule {table} nat-{hook} {entry}meta l4proto != icmp ip daddr vmap @{SERVICES}",
        ]
        if site.reply == "own-source":
            return lines
        ours = f'oifname "{site.interface}" ct status dnat'
        if site.reply == "hairpin-snat":
            lines.append(f"add set {table} {HAIRPINS} {{ type ipv4_addr . ipv4_addr; }}")
            ours += f" ip saddr . ip daddr @{HAIRPINS}"
        return [
            *lines,
            f"add chain {table} nat-postrouting {{ type nat hook postrouting priority 100; }}",
            f"add rule {table} nat-postrouting {ours} snat to {site.address}",
        ]


def _turnover(users: Mapping[str, int], difference: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Return the keys that get their first user by the difference, and those that lose their last."""
    come = [key for key, count in difference.items() if count > 0 and not users.get(key, 0)]
    gone = [key for key, count in difference.items() if count < 0 and users[key] + count == 0]
    return come, gone
