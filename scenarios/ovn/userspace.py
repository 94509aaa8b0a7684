"""A node whose packets Open vSwitch forwards itself (datapath_type=netdev): no kernel has a part in its bridges.

        underlay (sw0) ------ eth0 -- br-phy, which has the node's underlay address
                                        .  (geneve, by ovs-vswitchd itself)
                                      br-int -- vethN ---- eth0 [container]

A bridge has a tap of its name. Ports are read and written by packet sockets, so the kernel gets what arrives there,
too, and has to ignore it; and nobody computes checksums that a sender has left to its device (lib/netdev-linux.c).
"""

from __future__ import annotations

from collections.abc import Mapping

from dataplanes.kernel import iptables, offloads
from dataplanes.kernel.rtnl import Rtnl
from scenarios.fabric import UNDERLAY
from scenarios.ovn.daemons import OvnNode
from scenarios.topology import mac

NAME = "netdev"
"""The kind of datapath, as ovs-vswitchd.conf.db(5) calls it."""
_TUNNELS, _UPLINK = "br-phy", "eth0"
_IGNORED = [f"-A {chain} -i {port} -j DROP" for chain in ("INPUT", "FORWARD") for port in (_UPLINK, "veth+")]
"""The rules by which the kernel ignores what the switch has, too (Open vSwitch's manual, Firewall Rules)."""


def take_over(node: OvnNode, host: str, rtnl: Rtnl, address: str) -> None:
    """Let the underlay's interface be a port of a bridge, which gets the node's address: tunnels begin there.

    The bridge has the interface's MAC: so the node is still where the others know it.
    """
    iptables.program(host, "filter", _IGNORED)
    node.add_bridge(_TUNNELS, NAME, f'other_config:hwaddr="{mac(address)}"')
    node.add_port(_UPLINK, bridge=_TUNNELS)
    own = f"{address}/{UNDERLAY.prefixlen}"
    rtnl.send([rtnl.address_del(_UPLINK, own), rtnl.link_set(_TUNNELS, up=True)])
    rtnl.send([rtnl.address_add(_TUNNELS, own)])


def introduce(nodes: Mapping[str, OvnNode], addresses: Mapping[str, str]) -> None:
    """Let each node know the others' MACs. Otherwise the first packet to a node is lost, for a request by ARP."""
    for name, node in nodes.items():
        for other, address in addresses.items():
            if other != name:
                node.know(_TUNNELS, address, mac(address))


def attach(netns: str, interface: str) -> None:
    """Let a container's interface send packets with their checksums."""
    offloads.checksum(netns, interface)
