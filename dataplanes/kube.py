"""The data planes of kube-proxy: what its modes have in common, and the modes without IPVS.

kube-proxy leaves established connections alone, whatever happens to their backends. Only flows of UDP are forgotten
when their backend goes, because nothing else would end them (pkg/proxy/conntrack). On a node it sets two time-outs of
connection tracking (KubeProxyConntrackConfiguration; kubernetes/kubernetes#32551 for the second).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial

from dataplanes import kube_iptables, kube_nft
from dataplanes.base import Director, Footprint, Mechanism, Site
from dataplanes.chains import IptablesChains, NftChains
from dataplanes.errors import Unsupported
from dataplanes.filter_director import Entries, FilterDirector, SharedSite
from dataplanes.filters import Filter
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kube_knobs import KubeKnobs, KubeNftKnobs
from dataplanes.model import Service, remaining
from dataplanes.nft_rules import table_name
from dataplanes.requirements import Feature, Package, Requirement, Tool

_SETTINGS = {
    "net.netfilter.nf_conntrack_tcp_timeout_established": "86400",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "3600",
}


class KubeProxy(Mechanism):
    """What all mechanisms of kube-proxy have in common."""

    any_port = False
    in_turn = False
    settings: Mapping[str, str] = {}
    """The node's settings that this mode needs besides those of connection tracking."""

    def __init__(self, knobs: KubeKnobs) -> None:
        self._liberal = knobs.liberal
        self._nodes: dict[str, SharedSite] = {}

    def open(self, site: Site) -> Director:
        if site.hook != "input" or site.reply != "snat":
            raise Unsupported(f"kube-proxy balances at host, not at {site.hook}", where=site.netns)
        if site.netns not in self._nodes:
            liberal = {"net.netfilter.nf_conntrack_tcp_be_liberal": "1"} if self._liberal else {}
            self._nodes[site.netns] = SharedSite(site.netns, {**_SETTINGS, **self.settings, **liberal})
        return self._director(site, self._nodes[site.netns])

    def _director(self, site: Site, node: SharedSite) -> Director:
        return KubeDirector(site, node, *self._filters(site))

    def _filters(self, site: Site) -> tuple[list[Filter], Entries]:
        """Return the tables of a site, and the function that returns what services have in them."""
        raise NotImplementedError


CONNTRACK = (
    Feature("NF_CONNTRACK", "nf_conntrack", "keeping a connection with its backend"),
    Feature("NF_CT_NETLINK", "nf_conntrack_netlink", "forgetting UDP flows to a removed backend"),
)


IPTABLES = (
    Feature("IP_NF_NAT", "iptable_nat", "the table in which packets to a service are translated"),
    Feature("IP_NF_FILTER", "iptable_filter", "accepting what is forwarded, and refusing what has no backend"),
    Feature("NETFILTER_XT_NAT", "xt_nat", "DNAT to a backend"),
    Feature("NETFILTER_XT_TARGET_MASQUERADE", "xt_MASQUERADE", "masquerading, so that replies come back"),
    Feature("NETFILTER_XT_MARK", "xt_mark", "marking what is to be masqueraded"),
    Feature("NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", "matching new and invalid packets"),
    Feature("NETFILTER_XT_MATCH_ADDRTYPE", "xt_addrtype", "packets to the node itself"),
    Tool("iptables-legacy-restore", "iptables", "programming rules in bulk"),
)
_STATISTIC = (
    Feature("NETFILTER_XT_MATCH_STATISTIC", "xt_statistic", "picking a backend"),
    Feature("IP_NF_TARGET_REJECT", "ipt_REJECT", "refusing connections that have no backend"),
)


class KubeNft(KubeProxy):
    """kube-proxy's nftables mode."""

    name = "kube-nft"

    def __init__(self, knobs: KubeNftKnobs) -> None:
        super().__init__(knobs)
        self._layout = knobs.layout

    @classmethod
    def requires(cls, knobs: KubeNftKnobs) -> tuple[Requirement, ...]:
        return (
            *CONNTRACK,
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


class KubeIptables(KubeProxy):
    """kube-proxy's iptables mode. All networks of a node share its chains, as all services of a cluster do."""

    name = "kube-iptables"

    def __init__(self, knobs: KubeKnobs) -> None:
        super().__init__(knobs)
        self._tables: dict[str, list[Filter]] = {}

    @classmethod
    def requires(cls, knobs: KubeKnobs) -> tuple[Requirement, ...]:
        return (*CONNTRACK, *IPTABLES, *_STATISTIC)

    def _filters(self, site: Site) -> tuple[list[Filter], Entries]:
        if site.netns not in self._tables:
            layouts = (kube_iptables.filtering(self._liberal), kube_iptables.NAT)
            self._tables[site.netns] = [IptablesChains(site.netns, layout) for layout in layouts]
        return self._tables[site.netns], kube_iptables.entries


class KubeDirector(FilterDirector):
    """The director of one site in the layout of kube-proxy."""

    def __init__(self, site: Site, shared: SharedSite, filters: list[Filter], entries: Entries) -> None:
        self._conntrack = Conntrack(site.netns)
        super().__init__(site, shared, filters, entries)

    def _forget(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        if keep := remaining(old, new):
            self._conntrack.flush(keep, socket.IPPROTO_UDP)

    def footprint(self) -> list[Footprint]:
        return [*super().footprint(), Footprint(self._site.netns, "conntrack entries", self._conntrack.count())]

    def release(self) -> None:
        super().release()
        self._conntrack.close()
