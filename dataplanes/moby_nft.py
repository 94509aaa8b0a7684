"""The nftables layout that is proposed for Docker's swarm mode, in the load-balancer namespace (moby/moby#53125).

The facts are of daemon/libnetwork/service_nftables_lb_linux.go of that pull request and of its tests. The map
nat-service-vip has an element for each backend: the VIP, and a range of the numbers below 65,536. The ranges of a VIP's
backends cover all of them. The packet's number is drawn at random, and the element that has it names the backend. The
map for published ports is there, and empty. No connection is ever forgotten, whatever happens to its backend.

With each change all elements are removed and added again, in one transaction. nft 1.0.6 refuses one statement of more
than 1,365 elements with ranges ("File exists"), so they are written in several. It also changes the byte order of
`meta l4proto`, one byte, which Linux 6.12.117 refuses ("Operation not supported"), so the key is `ip protocol` here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from dataplanes.base import Director, Mechanism, Site
from dataplanes.errors import Unsupported
from dataplanes.filter_director import FilterDirector, SharedSite
from dataplanes.filters import Entry, NftTable
from dataplanes.model import Service
from dataplanes.nft_rules import table_name
from dataplanes.requirements import Feature, Package, Requirement

_VIPS, _PORTS = "nat-service-vip", "nat-publish-port"
_NUMBERS = 65_536
_RANDOM = f"numgen random mod {_NUMBERS}"
_STATEMENT = 1_000  # elements


def base(site: Site) -> list[str]:
    """Return the part of a site's table that does not depend on services."""
    table = f"ip {table_name(site.network)}"
    keys = {_VIPS: f"ip daddr . {_RANDOM}", _PORTS: f"ip protocol . th dport . {_RANDOM}"}
    return [
        f"create table {table}",
        *(
            f"add map {table} {name} {{ typeof {key} : ip daddr; flags interval; counter; }}"
            for name, key in keys.items()
        ),
        f"add chain {table} prerouting {{ type nat hook prerouting priority -100; policy accept; }}",
        f"add chain {table} postrouting {{ type nat hook postrouting priority 100; policy accept; }}",
        *(f"add rule {table} prerouting dnat to {key} map @{name}" for name, key in keys.items()),
        f"add rule {table} postrouting ct status dnat counter masquerade",
    ]


def entries(services: Sequence[Service]) -> Iterator[Entry]:
    """Yield the elements of services. A drained backend has none, and all others have the same weight."""
    for service in services:
        backends = [backend.address for backend in service.backends if backend.weight]
        for (first, last), address in zip(ranges(len(backends)), backends, strict=True):
            yield _VIPS, f"{service.vip} . {first}-{last} : {address}"


def ranges(count: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last number of each of so many ranges. They cover all numbers, and their sizes agree."""
    size, longer = divmod(_NUMBERS, count or 1)
    first = 0
    for number in range(count):
        last = first + size - (number >= longer)
        yield first, last
        first = last + 1


class _Maps(NftTable):
    """A table whose elements are all written again with each change."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.netns, table_name(site.network), base(site), {})
        self._there: list[Entry] = []  # the elements that the kernel has

    def clear(self) -> None:
        super().clear()
        self._there = []

    def restore(self) -> None:
        super().restore()
        self._there = list(self._users)

    def _exchange(self, gone: Sequence[Entry], come: Sequence[Entry]) -> None:
        if not gone and not come:
            return
        going = set(gone)
        left = [entry for entry in self._there if entry not in going]
        keys = [(name, element.partition(" : ")[0]) for name, element in self._there]
        self._nft.run("\n".join((*self._elements("delete", keys), *self._elements("add", [*left, *come]))))
        self._there = [*left, *come]

    def _elements(self, verb: str, entries: Sequence[Entry]) -> list[str]:
        ordered = sorted(entries)
        parts = (ordered[begin : begin + _STATEMENT] for begin in range(0, len(ordered), _STATEMENT))
        return [line for part in parts for line in super(_Maps, self)._elements(verb, part)]


class MobyKnobs(Struct, frozen=True):
    """The layout has no settings."""


class MobyNft(Mechanism):
    """The mechanism that is proposed to take IPVS's place in swarm."""

    name = "moby-nft"
    in_turn = False

    @classmethod
    def requires(cls) -> tuple[Requirement, ...]:
        return (
            Feature("NF_TABLES", "nf_tables", "nftables"),
            Feature("NF_TABLES_IPV4", "nf_tables", "nftables of IPv4"),
            Feature("NF_CONNTRACK", "nf_conntrack", "keeping a connection with its backend"),
            Feature("NF_NAT", "nft_chain_nat", "NAT chains"),
            Feature("NFT_NAT", "nft_nat", "DNAT to a backend"),
            Feature("NFT_MASQ", "nft_masq", "masquerading, so that replies come back"),
            Feature("NFT_NUMGEN", "nft_numgen", "picking a backend"),
            Feature("NFT_CT", "nft_ct", "matching balanced connections"),
            Package("nftables", "python3-nftables", "programming nftables through libnftables"),
        )

    def open(self, site: Site) -> Director:
        if site.hook != "input" or site.reply != "snat":
            raise Unsupported(f"swarm balances in a namespace of its own, not at {site.hook}", where=site.netns)
        return FilterDirector(site, SharedSite(site.netns, {}), [_Maps(site)], entries)
