"""The fabric: nodes on an underlay, an overlay namespace per network and node, and containers attached to both.

        underlay (sw0) ------ eth0 [node: host namespace] ---- docker_gwbridge 172.18.0.1/16
                                     |  (vxlan0's socket)             |
                              vxlan0 |                           eth1 | 172.18.0.x
                       [overlay namespace: br0] ---- vethN ---- eth0 [container] lo 127.0.0.11

It is built as on a Docker host (the dump of a real one, docs/sources.md). vxlan0 is created in the host namespace and
then moved, so that its socket stays on the underlay. It has proxy, l2miss and l3miss, with permanent neighbour and
forwarding entries for each endpoint and never for a VIP. So an ARP request for a VIP ends in the vxlan
(drivers/net/vxlan, arp_reduce). IPv6 is off, as on Docker's networks without IPv6.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Network

from dataplanes.errors import BenchError
from dataplanes.kernel import iptables, netns, sysctl
from dataplanes.kernel.netlink import NetlinkError
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Segment
from scenarios import docker_node
from scenarios.journal import Journal
from scenarios.topology import GATEWAY, Network, Scenario, mac

UNDERLAY = IPv4Network("192.168.96.0/20")  # the nodes of docker-machine have 192.168.99.100 and up
_UNDERLAY_FIRST = 3 * 256 + 100
_SWITCH = "underlay"  # the namespace of the switch between the nodes
_VXLAN_ID = 4097  # swarm counts from 4096, which is its ingress network
_VXLAN_PORT = 4789
_COMES_UP = 60.0
_BEHIND = IPv4Network("192.168.250.0/30")
_ROUTER = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}


class Fabric:
    """The nodes, overlay namespaces and attachments of one run. They are named RUN-NODE, RUN-NODE.NETWORK, RUN-TASK."""

    def __init__(self, scenario: Scenario, journal: Journal, *, gateways: bool = True) -> None:
        """Create the fabric. Without `gateways` nodes have no docker_gwbridge, as before a daemon has started."""
        self._scenario = scenario
        self._with_gateways = gateways
        self._journal = journal
        self._rtnl: dict[str, Rtnl] = {}
        self._vteps: dict[str, str] = {}
        self._ports: dict[str, int] = {}
        self._gateways: dict[str, int] = {}
        self._kept: dict[str, list[Callable[[], None]]] = {}  # what a node is told later
        self._rising: dict[tuple[str, str], None] = {}  # namespaces and interfaces that may carry nothing yet
        self.segments: dict[tuple[str, str], Segment] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self.on_namespace: Callable[[str], None] = lambda name: None
        """It is told each namespace that is created from now on, before anything is sent there."""

    def close(self) -> None:
        """Close the netlink sockets. The journal removes the namespaces."""
        for rtnl in self._rtnl.values():
            rtnl.close()
        self._rtnl.clear()

    def rtnl(self, name: str) -> Rtnl:
        """Return rtnetlink of one of this run's namespaces."""
        if name not in self._rtnl:
            self._rtnl[name] = Rtnl(name)
        return self._rtnl[name]

    def namespace(self, role: str, *, remapped: bool = False) -> str:
        """Create the namespace RUN-ROLE with lo up. For `remapped` see netns.create."""
        name = f"{self._journal.run}-{role}"
        self._journal.record("netns", name)
        netns.create(name, remapped=remapped)
        self.on_namespace(name)
        sysctl.write(name, _ROUTER)
        rtnl = self.rtnl(name)
        rtnl.send([rtnl.link_set("lo", up=True)])
        return name

    def drop_namespace(self, name: str) -> None:
        """Delete one namespace now."""
        rtnl = self._rtnl.pop(name, None)
        if rtnl:
            rtnl.close()
        self._rising = {link: None for link in self._rising if link[0] != name}
        self._journal.discharge("netns", name)

    def host_netns(self, node: str) -> str:
        """Return a node's host namespace."""
        return f"{self._journal.run}-{node}"

    def build(self) -> None:
        """Build the underlay and every node, without any network yet."""
        underlay = self.namespace(_SWITCH)
        # This namespace is the wire between nodes, and no node. With br_netfilter loaded, the bridges of every new
        # namespace go through netfilter (net/bridge/br_netfilter_hooks.c, br_netfilter_sysctl_default). No switch
        # between real nodes does.
        sysctl.write(underlay, {f"net.bridge.bridge-nf-call-{table}tables": "0" for table in ("arp", "ip", "ip6")})
        switch = self.rtnl(underlay)
        switch.send([switch.link_add("sw0", "bridge")])
        switch.send([switch.link_set("sw0", up=True)])
        for node in self._scenario.nodes:
            self.add_node(node)

    def add_node(self, node: str) -> None:
        """Build a node on the underlay, without any network yet."""
        underlay, host = f"{self._journal.run}-{_SWITCH}", self.namespace(node)
        number = len(self._vteps)
        address = str(UNDERLAY[_UNDERLAY_FIRST + number])
        self._vteps[node] = address
        port = f"p{number}"
        self._connect("sw0", port, "eth0", host, of=underlay, mac=mac(address), mtu=self._scenario.underlay_mtu)
        rtnl = self.rtnl(host)
        rtnl.send([rtnl.address_add("eth0", f"{address}/{UNDERLAY.prefixlen}")])
        if self._with_gateways:
            rtnl.send([rtnl.link_add("docker_gwbridge", "bridge")])
            rtnl.send(
                [
                    rtnl.link_set("docker_gwbridge", up=True),
                    rtnl.address_add("docker_gwbridge", f"{GATEWAY[1]}/{GATEWAY.prefixlen}"),
                ]
            )
            if self._scenario.node == "docker":
                docker_node.leave(host, rtnl)
        else:  # a daemon that finds it on lets the node forward what no rule accepts (libnetwork, setupIPForwarding)
            sysctl.write(host, {"net.ipv4.ip_forward": "0"})

    def address(self, node: str) -> str:
        """Return a node's address on the underlay."""
        return self._vteps[node]

    def segment(self, network: str, node: str) -> Segment:
        """Return the network's segment on a node. Create its overlay namespace if it is missing."""
        key = network, node
        if key not in self.segments:
            self.segments[key] = self._overlay(self._scenario.network(network), node)
            for endpoint in self.endpoints.values():
                if endpoint.network == network and endpoint.node != node:
                    self._teach(endpoint, self.segments[key])
        return self.segments[key]

    def _overlay(self, network: Network, node: str) -> Segment:
        host = self.host_netns(node)
        name = self.namespace(f"{node}.{network.name}")
        number = [each.name for each in self._scenario.networks].index(network.name)
        outside, inside = self.rtnl(host), self.rtnl(name)
        data = [("IFLA_VXLAN_ID", _VXLAN_ID + number), ("IFLA_VXLAN_PORT", _VXLAN_PORT)]
        data += [(f"IFLA_VXLAN_{flag}", 1) for flag in ("LEARNING", "PROXY", "L2MISS", "L3MISS")]
        made = f"vx{number}"
        outside.send([outside.link_add(made, "vxlan", data=data, mtu=network.mtu)])
        target = os.open(netns.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            outside.send([outside.link_set(made, net_ns_fd=target, ifname="vxlan0")])
        finally:
            os.close(target)
        inside.send([inside.link_add("br0", "bridge", mtu=network.mtu)])
        subnet = IPv4Network(network.subnet)
        inside.send(
            [
                inside.link_set("vxlan0", up=True, master=inside.index("br0")),
                inside.link_set("br0", up=True, mtu=network.mtu),
                inside.address_add("br0", f"{subnet[1]}/{subnet.prefixlen}"),
            ]
        )
        return Segment(node, network.name, network.subnet, host, name, "br0", network.mtu)

    def plug(
        self,
        name: str,
        network: str,
        node: str,
        address: str,
        *,
        into: str,
        interface: str,
        vip: str | None = None,
        cgroup: str | None = None,
    ) -> Endpoint:
        """Attach the namespace `into` to a network, as `interface`, and let the other nodes know."""
        segment = self.segment(network, node)
        overlay = segment.overlay_netns
        number = self._ports.get(overlay, 0)
        port = f"veth{number}"
        endpoint = Endpoint(name, network, node, into, interface, address, mac(address), overlay, port, vip, cgroup)
        with Undo() as undo:
            self._attach(endpoint, segment, undo)
        self._ports[overlay] = number + 1
        self.endpoints[network, name] = endpoint
        return endpoint

    def _attach(self, endpoint: Endpoint, segment: Segment, undo: Undo) -> None:
        """Connect an endpoint to its segment, and let the other nodes know. What was done is undone if a step fails."""
        undo(partial(self.cut, endpoint))
        where, port, interface = segment.overlay_netns, endpoint.bridge_port, endpoint.interface
        self._connect("br0", port, interface, endpoint.netns, of=where, mac=endpoint.mac, mtu=segment.mtu)
        self._address(endpoint, segment)
        for other in self._others(endpoint):
            undo(partial(self._unteach, endpoint, other))
            self._teach(endpoint, other)

    def _address(self, endpoint: Endpoint, segment: Segment) -> None:
        container = self.rtnl(endpoint.netns)
        address = f"{endpoint.address}/{IPv4Network(segment.subnet).prefixlen}"
        container.send([container.address_add(endpoint.interface, address)])

    def await_links(self) -> None:
        """Wait until every link that was created since the last call carries packets.

        The kernel activates a link some time after the other end of its veth is up, and then the link's bridge
        (net/core/link_watch.c). On a busy machine this takes long, and packets that are sent before are lost.
        """
        deadline = time.monotonic() + _COMES_UP
        while self._rising:
            name, interface = next(iter(self._rising))
            try:
                carries = self.rtnl(name).carries(interface)
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    raise
                carries = True  # nobody waits for it: it was a container's that could not be created
            if carries:
                del self._rising[name, interface]
            elif time.monotonic() > deadline:
                raise BenchError("the link does not come up", where=f"{name}: {interface}")
            else:
                time.sleep(0.001)

    def _connect(self, bridge: str, port: str, interface: str, into: str, *, of: str, mac: str, mtu: int) -> None:
        """Connect a namespace, as `interface`, to a port of the bridge of another namespace."""
        outside, inside = self.rtnl(of), self.rtnl(into)
        outside.veth_add(port, interface, into, mac=mac, mtu=mtu)
        outside.send([outside.link_set(port, up=True, master=outside.index(bridge))])
        inside.send([inside.link_set(interface, up=True)])
        self._rising |= dict.fromkeys([(of, port), (into, interface), (of, bridge)])

    def alias(self, endpoint: Endpoint, addresses: Sequence[str]) -> None:
        """Give an attachment further addresses behind the same MAC, and let the other nodes know."""
        length = IPv4Network(self._scenario.network(endpoint.network).subnet).prefixlen
        inside = self.rtnl(endpoint.netns)
        inside.send(inside.address_add(endpoint.interface, f"{address}/{length}") for address in addresses)
        for segment in self._others(endpoint):
            rtnl = self.rtnl(segment.overlay_netns)
            rtnl.send(rtnl.neighbour_set("vxlan0", address, endpoint.mac) for address in addresses)

    def unplug(self, endpoint: Endpoint) -> None:
        """Undo `plug`. The namespace may be gone already, and its veth with it."""
        with Undo() as undo:
            for segment in self._others(endpoint):
                undo(partial(self._teach, endpoint, segment))
                self._unteach(endpoint, segment)
            self.cut(endpoint)
        del self.endpoints[endpoint.network, endpoint.name]

    def cut(self, endpoint: Endpoint) -> None:
        """Remove an attachment's veth if it still exists. The other nodes are not told."""
        bridge, container = self.rtnl(endpoint.overlay_netns), self._rtnl.get(endpoint.netns)
        try:
            bridge.send([bridge.link_del(endpoint.bridge_port)])
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
        bridge.forget(endpoint.bridge_port)
        if container:
            container.forget(endpoint.interface)

    @contextmanager
    def behind(self, endpoint: Endpoint) -> Iterator[str]:
        """Create a namespace behind a container, such as a VPN's peer or a virtual machine, and yield its name.

        The container forwards for it and masquerades. What this adds to the container's namespace is removed with that.
        """
        name = self.namespace(f"{endpoint.name}.behind")
        router, machine = self.rtnl(endpoint.netns), self.rtnl(name)
        router.veth_add(
            "behind0", "eth0", name, mac=mac(str(_BEHIND[2])), mtu=self._scenario.network(endpoint.network).mtu
        )
        for rtnl, interface, address in ((router, "behind0", _BEHIND[1]), (machine, "eth0", _BEHIND[2])):
            rtnl.send([rtnl.link_set(interface, up=True)])
            rtnl.send([rtnl.address_add(interface, f"{address}/{_BEHIND.prefixlen}")])
        self._rising |= dict.fromkeys([(endpoint.netns, "behind0"), (name, "eth0")])
        machine.send([machine.route_add("default", interface="eth0", gateway=str(_BEHIND[1]))])
        masquerade = f"-A POSTROUTING -s {_BEHIND} -o {endpoint.interface} -j SNAT --to-source {endpoint.address}"
        iptables.program(endpoint.netns, "nat", [masquerade])
        self.await_links()
        try:
            yield name
        finally:
            self.drop_namespace(name)

    @contextmanager
    def unaware(self, node: str) -> Iterator[None]:
        """Keep from a node where new endpoints of other nodes are, and which are gone, until the end of the block."""
        self._kept[node] = []
        try:
            yield
        finally:
            for tell in self._kept.pop(node):
                tell()

    def _others(self, endpoint: Endpoint) -> list[Segment]:
        """Return the segments of an endpoint's network on other nodes."""
        return [s for s in self.segments.values() if s.network == endpoint.network and s.node != endpoint.node]

    def _teach(self, endpoint: Endpoint, segment: Segment) -> None:
        """Let a node know where a remote endpoint is."""
        if segment.node in self._kept:
            self._kept[segment.node].append(partial(self._teach, endpoint, segment))
            return
        rtnl, vtep = self.rtnl(segment.overlay_netns), self._vteps[endpoint.node]
        known = rtnl.neighbour_set("vxlan0", endpoint.address, endpoint.mac)
        rtnl.send([known, rtnl.fdb_set("vxlan0", endpoint.mac, vtep)])

    def _unteach(self, endpoint: Endpoint, segment: Segment) -> None:
        """Let a node forget where a remote endpoint is, if it knows."""
        if segment.node in self._kept:
            self._kept[segment.node].append(partial(self._unteach, endpoint, segment))
            return
        rtnl, vtep = self.rtnl(segment.overlay_netns), self._vteps[endpoint.node]
        known = rtnl.neighbour_del("vxlan0", endpoint.address)
        rtnl.send([known, rtnl.fdb_del("vxlan0", endpoint.mac, vtep)], ignore=(errno.ENOENT,))

    def gateway(self, node: str, container: str) -> None:
        """Give a container its eth1 on docker_gwbridge, and the default route through it."""
        host = self.host_netns(node)
        number = self._gateways.get(host, 0)
        self._gateways[host] = number + 1
        address = str(GATEWAY[number + 2])
        port = f"gw{number}"
        self._connect("docker_gwbridge", port, "eth1", container, of=host, mac=mac(address), mtu=1500)
        inside = self.rtnl(container)
        inside.send([inside.address_add("eth1", f"{address}/{GATEWAY.prefixlen}")])
        inside.send([inside.route_add("default", interface="eth1", gateway=str(GATEWAY[1]))])
