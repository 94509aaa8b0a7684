"""nftables in the bridge family: maps translate frames while the bridge handles them, without connection tracking.

The kernel's connection tracking does not see these frames, and bridge netfilter is off. So packets that concern no VIP
cost less than in a network without a balancer. What a connection needs to be remembered is in maps that the rules
themselves change (bridge_rules.py).

A bridge sends a frame to a MAC, so a director gets to know the containers of its network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated

from msgspec import Meta

from dataplanes.base import Director, Site
from dataplanes.bridge_connections import BridgeConnections
from dataplanes.bridge_ruleset import BridgeRuleset
from dataplanes.errors import Unsupported
from dataplanes.guard import Guard
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint
from dataplanes.nft import ConnectionTable, Nft, NftDirector, NftKnobs
from dataplanes.requirements import Feature, Package, Requirement


class NftBridgeKnobs(NftKnobs, frozen=True):
    """The way in which a backend is picked, and the size of the connection table of a network on a node."""

    connections: Annotated[
        int, Meta(ge=1, le=1 << 24, description="the largest number of connections; new ones are refused beyond it")
    ] = 65_536


class NftBridge(Nft):
    """The nftables mechanism in the bridge family."""

    name = "nft-bridge"

    def __init__(self, knobs: NftBridgeKnobs | None = None) -> None:
        super().__init__(knobs)
        self._connections = (knobs or NftBridgeKnobs()).connections

    @classmethod
    def requires(cls, knobs: NftKnobs | None = None) -> tuple[Requirement, ...]:
        return (
            Feature("NF_TABLES", "nf_tables", "nftables"),
            Feature("NF_TABLES_IPV4", "nf_tables", "nftables of IPv4"),
            Feature("NF_TABLES_BRIDGE", "nf_tables", "nftables of bridges"),
            Feature("NFT_NUMGEN", "nft_numgen", "picking a backend"),
            Feature("NFT_REJECT", "nft_reject", "refusing connections that have no backend"),
            Feature("NFT_REJECT_IPV4", "nft_reject_ipv4", "refusing connections that have no backend"),
            Package("nftables", "python3-nftables", "programming nftables through libnftables"),
        )

    def open(self, site: Site) -> Director:
        if site.hook != "frame":
            raise Unsupported(f"nft cannot balance frames at {site.hook}", where=site.netns)
        rules = BridgeRuleset(site, self.scheduler, self._connections)
        return _BridgeDirector(site, rules, self._guards.setdefault(site.netns, Guard()))


class _BridgeDirector(NftDirector):
    kept = "connection entries"
    _rules: BridgeRuleset

    def _open_connections(self) -> ConnectionTable:
        return self._table()

    def _table(self) -> BridgeConnections:
        return BridgeConnections(self._nft, self._rules.family, self._rules.table, self._ours)

    def _remembered(self) -> Iterable[str]:
        return self._table().commands()

    def meet(self, endpoints: Sequence[Endpoint]) -> Callable[[], None]:
        before, macs = dict(self._rules.macs), {each.address: each.mac for each in endpoints}
        with Undo() as undo:
            self._reach(before | macs)
            undo(partial(self._reach, before))
            backends = {backend.address for service in self._services.values() for backend in service.backends}
            if again := {address: mac for address, mac in macs.items() if address in backends}:
                self._table().misled(again)  # they began while nobody was there, or another container
        return partial(self._reach, before)

    def part(self, endpoint: Endpoint) -> None:
        self._reach({address: mac for address, mac in self._rules.macs.items() if address != endpoint.address})

    def _reach(self, macs: dict[str, str]) -> None:
        """Make these the stations."""
        if not self.intact():
            self.resync()
        if text := self._rules.acquaint(macs):
            self._run(text)
        self._rules.macs = macs
