"""The fabric of OVN: a logical switch for each network, to which the containers of all nodes are attached.

        underlay (sw0) ------ eth0 [node: host namespace] ---- docker_gwbridge 172.18.0.1/16
                                     |                                 |
                        genev_sys_6081 -- br-int -- vethN           eth1 | 172.18.0.x
                                                      |                |
                                                     eth0 [container] lo 127.0.0.11

A VIP is an address of its network's subnet, and nobody's. So each network has a logical router, too, which has the
subnet's first address, knows the services and answers for their VIPs (ovn-northd(8), ARP reply for load balancers).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Network

from dataplanes.errors import Prerequisite
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Segment
from dataplanes.platforms import Version
from scenarios.fabric import Fabric
from scenarios.journal import Journal
from scenarios.ovn import userspace
from scenarios.ovn.daemons import BRIDGE, Central, OvnNode, OvnPrograms
from scenarios.topology import Network, Scenario, mac

_OF_GENEVE = 8
"""Bytes by which geneve's header, with the option that has the ports, is longer than vxlan's (ovn-architecture(7))."""


def router(network: str) -> str:
    """Return the name of a network's logical router."""
    return f"router-of-{network}"


class OvnFabric(Fabric):
    """The nodes with their daemons, and the attachments to logical switches."""

    def __init__(self, scenario: Scenario, journal: Journal, wanted: Version, version: str) -> None:
        """Create the fabric of programs of a version. It makes room for geneve's header in the networks' MTUs."""
        super().__init__(scenario, journal)
        for network in scenario.networks:
            network.mtu -= _OF_GENEVE
        self._wanted, self._version = wanted, version
        self.in_userspace = wanted.datapath == userspace.NAME
        self.nodes: dict[str, OvnNode] = {}
        self.central: Central
        self._unbound: list[Endpoint] = []
        self._at_rest = False

    def close(self) -> None:
        for node in self.nodes.values():
            node.stop()
        if hasattr(self, "central"):
            self.central.stop()
        super().close()

    def build(self) -> None:
        super().build()
        first, *_ = self._scenario.nodes
        self.central = Central(self._programs("central"), self.host_netns(first), self._journal)
        release, *_ = self._version.split("-")
        if not (found := self.central.version()).startswith(f"{release}."):
            why = f"{self._wanted.packages[0]} is {found} now"
            raise Prerequisite(f"no OVN {release} to be had", why=why, fix="use another version")
        self.central.start(self.address(first))
        for name in self._scenario.nodes:
            node = self.nodes[name] = OvnNode(self._programs(name), self.host_netns(name), self._journal)
            address, host = self.address(name), self.host_netns(name)
            node.start(name, address, self.address(first), self._wanted.datapath)
            if self.in_userspace:
                userspace.take_over(node, host, self.rtnl(host), address)
            node.control()
        if self.in_userspace:
            userspace.introduce(self.nodes, {name: self.address(name) for name in self.nodes})
        for network in self._scenario.networks:
            self._switch(network)

    def _programs(self, name: str) -> OvnPrograms:
        home = self._journal.scratch(name)
        with suppress(FileExistsError):
            os.mkdir(home, mode=0o700)
        return OvnPrograms(self._wanted, home, name)

    def _switch(self, network: Network) -> None:
        """Make a logical switch and its router."""
        subnet = IPv4Network(network.subnet)
        address, name, own = str(subnet[1]), network.name, router(network.name)
        self.central.tell(
            ("ls-add", name),
            ("lr-add", own),
            ("lrp-add", own, f"{own}-port", mac(address), f"{address}/{subnet.prefixlen}"),
            ("lsp-add", name, f"{name}-router"),
            ("lsp-set-type", f"{name}-router", "router"),
            ("lsp-set-addresses", f"{name}-router", "router"),
            ("lsp-set-options", f"{name}-router", f"router-port={own}-port"),
        )

    def segment(self, network: str, node: str) -> Segment:
        """Return the network's segment on a node: all are the one bridge of the node's own namespace."""
        key = network, node
        if key not in self.segments:
            found, host = self._scenario.network(network), self.host_netns(node)
            self.segments[key] = Segment(node, network, found.subnet, host, host, BRIDGE, found.mtu)
        return self.segments[key]

    def _attach(self, endpoint: Endpoint, segment: Segment, undo: Undo) -> None:
        undo(partial(self._detach, endpoint))
        host, port, interface = segment.overlay_netns, endpoint.bridge_port, endpoint.interface
        outside, inside = self.rtnl(host), self.rtnl(endpoint.netns)
        outside.veth_add(port, interface, endpoint.netns, mac=endpoint.mac, mtu=segment.mtu)
        outside.send([outside.link_set(port, up=True)])
        if self.in_userspace:
            userspace.attach(endpoint.netns, interface)
        inside.send([inside.link_set(interface, up=True)])
        self._address(endpoint, segment)
        logical = _logical(endpoint)
        known = f"{endpoint.mac} {endpoint.address}"
        self.central.tell(("lsp-add", endpoint.network, logical), ("lsp-set-addresses", logical, known))
        self.nodes[endpoint.node].add_port(port, logical)
        self._rising |= dict.fromkeys([(host, port), (endpoint.netns, interface)])
        self._unbound.append(endpoint)

    def alias(self, endpoint: Endpoint, addresses: Sequence[str]) -> None:
        length = IPv4Network(self._scenario.network(endpoint.network).subnet).prefixlen
        inside = self.rtnl(endpoint.netns)
        inside.send(inside.address_add(endpoint.interface, f"{address}/{length}") for address in addresses)
        known = " ".join((endpoint.mac, endpoint.address, *addresses))
        self.central.tell(("lsp-set-addresses", _logical(endpoint), known))

    def unplug(self, endpoint: Endpoint) -> None:
        self._detach(endpoint)
        del self.endpoints[endpoint.network, endpoint.name]

    def _detach(self, endpoint: Endpoint) -> None:
        """Remove an attachment, or what there is of it."""
        self.central.tell(("--if-exists", "lsp-del", _logical(endpoint)))
        self.nodes[endpoint.node].remove_port(endpoint.bridge_port)
        self.cut(endpoint)

    def cut(self, endpoint: Endpoint) -> None:
        self._unbound = [each for each in self._unbound if each != endpoint]
        super().cut(endpoint)

    def await_links(self) -> None:
        """Wait until every attachment carries packets, and every node that hears of changes knows where it is."""
        super().await_links()
        awaited = [each for each in self._unbound if not self.nodes[each.node].held]
        for endpoint in awaited:
            self.central.await_bound(_logical(endpoint))
        if awaited:
            self._unbound = [each for each in self._unbound if each not in awaited]
            self.synchronize()

    def synchronize(self) -> None:
        """Wait until every node that hears of changes has them. While all stands still, there are none."""
        if not self._at_rest:
            self.central.synchronize(self.nodes)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Let everything stand still that no packet needs, for the block."""
        everything: list[Central | OvnNode] = [self.central, *self.nodes.values()]
        within, self._at_rest = self._at_rest, True
        for each in everything if not within else ():
            each.freeze(signal.SIGSTOP)
        try:
            yield
        finally:
            self._at_rest = within
            for each in everything if not within else ():
                each.freeze(signal.SIGCONT)


def _logical(endpoint: Endpoint) -> str:
    """Return the name of an attachment's logical port. A container has one on each of its networks."""
    return f"{endpoint.name}.{endpoint.network}"
