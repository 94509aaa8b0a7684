"""A node's own namespace as dockerd leaves it: docker0, and the rules by which containers reach the world.

They make the kernel track the node's connections, and so each VXLAN packet of an overlay (net/netfilter/xt_nat.c and
xt_conntrack.c ask for it, nf_ct_netns_get). The node forwards only what one of these rules accepts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from dataplanes import files
from dataplanes.kernel import iptables
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.requirements import Feature, Requirement
from scenarios.topology import ENGINE

REQUIRES: tuple[Requirement, ...] = (
    Feature("IP_NF_FILTER", "iptable_filter", "the filter rules of a node as dockerd leaves it"),
    Feature("IP_NF_MANGLE", "iptable_mangle", "the empty table of a node as dockerd leaves it"),
    Feature("NETFILTER_XT_MATCH_ADDRTYPE", "xt_addrtype", "rules of dockerd on packets to the node itself"),
    Feature("NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", "rules of dockerd on replies"),
    Feature("NETFILTER_XT_TARGET_MASQUERADE", "xt_MASQUERADE", "rules of dockerd on what leaves the node"),
)
_RULES = os.path.join(os.path.dirname(__file__), "docker_node.rules")
_MOST_BYTES = 64 << 10


def leave(name: str, rtnl: Rtnl) -> None:
    """Make a namespace that has docker_gwbridge what a node's is after dockerd has started and joined a swarm."""
    rtnl.send([rtnl.link_add("docker0", "bridge")])
    rtnl.send(
        [rtnl.link_set("docker0", up=True), rtnl.address_add("docker0", f"{ENGINE[1]}/{ENGINE.prefixlen}")]
    )  # it has no ports, so there is no carrier
    for table, lines in rules().items():
        iptables.program(name, table, lines)


def rules() -> dict[str, list[str]]:
    """Return the lines of `iptables-save`, without counters, by table."""
    return dict(_tables(files.text(_RULES, _MOST_BYTES)))


def _tables(text: str) -> Iterator[tuple[str, list[str]]]:
    for part in text.split("\n*")[1:]:
        table, *lines = part.partition("\nCOMMIT")[0].splitlines()
        yield table, lines
