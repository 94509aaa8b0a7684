"""The requirements of the lab itself, which do not depend on the data plane."""

from dataplanes.requirements import Feature, Requirement, Tool
from scenarios import docker_node, topology

REQUIRES: tuple[Requirement, ...] = (
    Feature("NET_NS", "", "namespaces are the nodes and containers"),
    Feature("VETH", "veth", "links between namespaces"),
    Feature("BRIDGE", "bridge", "the overlay's br0, docker_gwbridge and the underlay switch"),
    # Docker loads this module for docker_gwbridge, whose ports must not reach each other. From then on every bridge of
    # the machine hands its frames to iptables, and every figure includes that.
    Feature("BRIDGE_NETFILTER", "br_netfilter", "bridges hand their frames to netfilter, as on a Docker host"),
    Feature("VXLAN", "vxlan", "the overlay between nodes"),
    Feature("NF_NAT", "nf_nat", "the embedded DNS answers at 127.0.0.11:53 by NAT"),
    Feature("IP_NF_NAT", "iptable_nat", "the embedded DNS answers at 127.0.0.11:53 by NAT"),
    Feature("NETFILTER_XT_NAT", "xt_nat", "the embedded DNS answers at 127.0.0.11:53 by NAT"),
    Tool("iptables-legacy-restore", "iptables", "the embedded DNS's NAT rules"),
    Tool("ip", "iproute2", "`bench inspect` and `ip netns exec`"),
)


def of(scenario: str) -> tuple[Requirement, ...]:
    """Return what a scenario requires besides, by its name or path. Raises Usage if there is no such scenario."""
    return docker_node.REQUIRES if topology.load(scenario).node == "docker" else ()
