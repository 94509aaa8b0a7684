"""The data planes of kube-proxy: the director that all of them share, and the mechanisms.

kube-proxy leaves established connections alone, whatever happens to their backends. Only flows of UDP are forgotten
when their backend goes, because nothing else would end them (pkg/proxy/conntrack). On a node it sets two time-outs of
connection tracking (KubeProxyConntrackConfiguration; kubernetes/kubernetes#32551 for the second).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from dataplanes import kube_nft
from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.chains import NftChains
from dataplanes.errors import BenchError, Unsupported
from dataplanes.filters import Entry, Filter
from dataplanes.guard import Guard
from dataplanes.kernel import sysctl
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.undo import Undo
from dataplanes.kube_nft import KubeNftKnobs
from dataplanes.model import Service, remaining
from dataplanes.nft_rules import table_name
from dataplanes.requirements import Feature, Package, Requirement

_SETTINGS = {
    "net.netfilter.nf_conntrack_tcp_timeout_established": "86400",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "3600",
}
Entries = Callable[[Sequence[Service]], Iterable[Entry]]


class _KubeNode:
    """What the directors of one node's namespace share: what they saw last, and the node's settings."""

    def __init__(self, netns: str) -> None:
        self.guard = Guard()
        self._netns = netns
        self._settings = sysctl.Settings()
        self._users: set[object] = set()

    def enter(self, director: object) -> None:
        """Set the node's settings. Repeated, it restores them."""
        self._settings.set(self, self._netns, _SETTINGS)
        self._users.add(director)

    def leave(self, director: object) -> None:
        """Put the settings back if no other director needs them."""
        if self._users <= {director}:
            self._settings.put_back(self)
        self._users.discard(director)


class _Kube(Mechanism):
    """What all mechanisms of kube-proxy have in common."""

    any_port = False
    in_turn = False

    def __init__(self) -> None:
        self._nodes: dict[str, _KubeNode] = {}

    def open(self, site: Site) -> Director:
        if site.hook != "input" or site.reply != "snat":
            raise Unsupported(f"kube-proxy balances at host, not at {site.hook}", where=site.netns)
        return _KubeDirector(site, self._nodes.setdefault(site.netns, _KubeNode(site.netns)), *self._filters(site))

    def _filters(self, site: Site) -> tuple[list[Filter], Entries]:
        """Return the tables of a site, and the function that returns what services have in them."""
        raise NotImplementedError


_CONNTRACK = (
    Feature("NF_CONNTRACK", "nf_conntrack", "keeping a connection with its backend"),
    Feature("NF_CT_NETLINK", "nf_conntrack_netlink", "forgetting UDP flows to a removed backend"),
)


class KubeNft(_Kube):
    """kube-proxy's nftables mode."""

    name = "kube-nft"

    def __init__(self, knobs: KubeNftKnobs) -> None:
        super().__init__()
        self._layout = knobs.layout

    @classmethod
    def requires(cls, knobs: KubeNftKnobs) -> tuple[Requirement, ...]:
        return (
            *_CONNTRACK,
            Feature("NF_TABLES", "nf_tables", "nftables"),
            Feature("NF_TABLES_IPV4", "nf_tables", "nftables of IPv4"),
            Feature("NF_NAT", "nft_chain_nat", "NAT chains"),
            Feature("NFT_NAT", "nft_nat", "DNAT to a backend"),
            Feature("NFT_MASQ", "nft_masq", "masquerading, so that replies come back"),
            Feature("NFT_NUMGEN", "nft_numgen", "picking a backend"),
            Feature("NFT_CT", "nft_ct", "matching new connections"),
            Feature("NFT_REJECT", "nft_reject", "refusing connections that have no backend"),
            Feature("NFT_REJECT_IPV4", "nft_reject_ipv4", "refusing connections that have no backend"),
            Package("nftables", "python3-nftables", "programming nftables through libnftables"),
        )

    def _filters(self, site: Site) -> tuple[list[Filter], Entries]:
        table = NftChains(site.netns, table_name(site.network), kube_nft.base(site, self._layout), {})
        return [table], partial(kube_nft.entries, self._layout)


class _KubeDirector(Director):
    def __init__(self, site: Site, node: _KubeNode, filters: list[Filter], entries: Entries) -> None:
        self._site = site
        self._node = node
        self._filters = filters
        self._entries = entries
        self._services: dict[str, Service] = {}
        self._conntrack = Conntrack(site.netns)
        self._open = True
        try:
            with Undo() as undo:
                self._cleared = node.guard.doubts(self._look())
                undo(partial(node.leave, self))
                node.enter(self)
                for each in filters:
                    each.open()
                    undo(each.clear)
                node.guard.ours(self._look())
        except BenchError:
            self.release()
            raise

    def apply(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), services, self._filters)

    def remove(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), (), self._filters[::-1])

    def _known(self, services: Sequence[Service]) -> list[Service]:
        return [self._services[service.name] for service in services if service.name in self._services]

    def _replace(self, old: Sequence[Service], new: Sequence[Service], filters: Sequence[Filter]) -> None:
        with Undo() as undo:
            for each in filters:
                each.change(self._entries(old), self._entries(new), undo)
            self._note(old, new)
            undo(partial(self._note, new, old))
            if keep := remaining(old, new):
                self._conntrack.flush(keep, socket.IPPROTO_UDP)
            self._node.guard.ours(self._look())

    def _note(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        """Record that the kernel has these services now."""
        for service in old:
            del self._services[service.name]
        self._services.update((service.name, service) for service in new)

    def resync(self) -> None:
        doubts = self._node.guard.doubts(self._look())
        self._node.enter(self)
        for each in self._filters:
            each.restore()
        self._node.guard.ours(self._look())
        self._cleared = doubts

    def intact(self) -> bool:
        return self._node.guard.doubts(self._look()) == self._cleared

    def counters(self) -> list[Counter]:
        return []  # the layouts of kube-proxy do not count

    def footprint(self) -> list[Footprint]:
        held = [found for each in self._filters for found in each.footprint()]
        return [*held, Footprint(self._site.netns, "conntrack entries", self._conntrack.count())]

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
            self._node.leave(self)
        self.release()

    def release(self) -> None:
        self._open = False
        self._conntrack.close()
        for each in self._filters:
            each.close()

    def _look(self) -> dict[str, object]:
        return {fact: seen for each in self._filters for fact, seen in each.look().items()}
