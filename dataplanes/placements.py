"""Placements: the namespaces and hooks at which a VIP is load-balanced, and the way of the reply.

           client container                overlay namespace              lb namespace / node
container  [OUTPUT: VIP->backend] --eth0-- br0 ------------------------------------------------> backend
lb         eth0 ------------------------- br0 -- eth0 [VIP->backend, SNAT] -- br0 -------------> backend
overlay    eth0 ------------------------- [br0: VIP->backend] ---------------------------------> backend
bridge     eth0 ------------------------ [port: VIP->backend] br0 -----------------------------> backend
host       eth0 ------------------------- br0 -- ov0 [host namespace: VIP->backend, SNAT] ov0 -> backend
socket     [connect(): VIP->backend] ---- br0 -------------------------------------------------> backend
tc         eth0 ------- [veth: VIP->backend] br0 ----------------------------------------------> backend
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Literal, NamedTuple

from dataplanes import anew
from dataplanes.base import Attachments, Hook, Placement, Site
from dataplanes.ebpf_object import PROGRAMS
from dataplanes.forwarding import Firewall
from dataplanes.kernel import bpf, sysctl
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Endpoint, Segment, Service
from dataplanes.requirements import Condition, Feature, Requirement
from dataplanes.vips import Addresses, LocalRoutes, Vips


def _endpoint_site(endpoint: Endpoint, segment: Segment, hook: Literal["output", "socket", "tc"]) -> Site:
    return Site(
        endpoint.netns,
        endpoint.network,
        endpoint.node,
        segment.subnet,
        hook,
        "own-source",
        endpoint.interface,
        endpoint.address,
        endpoint,
    )


def _attachment_site(endpoint: Endpoint, segment: Segment, *, direct: bool = False) -> Site:
    return Site(
        endpoint.netns,
        endpoint.network,
        endpoint.node,
        segment.subnet,
        "input",
        "direct" if direct else "snat",
        endpoint.interface,
        endpoint.address,
        endpoint,
    )


class _Owner(Placement):
    """A placement whose sites own the VIPs: their namespaces accept packets to the VIPs and forward other packets."""

    def __init__(self, vips: Vips | None = None) -> None:
        self._vips = vips or Addresses()
        self._settings = sysctl.Settings()

    def set_up(self, site: Site) -> None:
        self._settings.set(site, site.netns, self._wanted(site))

    def clear(self, site: Site) -> None:
        self._settings.put_back(site)

    def publish(self, site: Site, services: Sequence[Service]) -> None:
        self._vips.own(site.netns, self._device(site), [service.vip for service in services])

    def withdraw(self, site: Site, services: Sequence[Service]) -> None:
        self._vips.disown(site.netns, self._device(site), [service.vip for service in services])

    def _device(self, site: Site) -> str:
        """Return the interface that the VIPs are on."""
        return site.interface

    def _wanted(self, site: Site) -> dict[str, str]:
        """Return the sysctls of a namespace that forwards packets out of the interface by which they came in."""
        return {
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.all.send_redirects": "0",
            f"net.ipv4.conf.{site.interface}.send_redirects": "0",
        } | self._vips.settings(site.interface)


class _Attached(_Owner):
    """A placement whose site is an attachment to the overlay, which the lab creates with one of two roles."""

    role: Literal["lb", "host"]
    _dsr = False

    def open_segment(self, segment: Segment, attachments: Attachments) -> list[Site]:
        attachment = attachments.attach(segment.network, segment.node, self.role)
        return [_attachment_site(attachment, segment, direct=self._dsr)]

    def close_segment(self, segment: Segment, sites: Sequence[Site], attachments: Attachments) -> None:
        for site in sites:
            if site.endpoint:
                attachments.detach(site.endpoint)


class ContainerPlacement(Placement):
    """The output hook of every container, as in Docker 1.12 to 18.03."""

    name = "container"

    def __init__(self, vip_on: str | None = None, *, route: bool = False) -> None:
        """Create the placement.

        `vip_on` is the interface of a service's own tasks that carries its VIP (eth0 until 17.06, lo from 17.09).
        `route` has it carry a local route instead of the address. The route's source is the task's own address, so
        nothing needs to change the source of a task that calls its own service.
        """
        self._vip_on = vip_on
        self._route = route

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        if endpoint.vip and self._vip_on:
            # Without the VIP, a task that picks itself sends to its own address out of eth0 (moby/moby#24377, #24398).
            self._vips(endpoint).own(endpoint.netns, self._vip_on, [endpoint.vip])
        return [_endpoint_site(endpoint, segment, "output")]

    def close_endpoint(self, endpoint: Endpoint, sites: Sequence[Site]) -> None:
        if endpoint.vip and self._vip_on:
            self._vips(endpoint).disown(endpoint.netns, self._vip_on, [endpoint.vip])

    def _vips(self, endpoint: Endpoint) -> Vips:
        return LocalRoutes(endpoint.address) if self._route else Addresses()


class LbPlacement(_Attached):
    """One load-balancer namespace per network and node, as in swarm since 18.06.

    Swarm takes ip_forward from init_net and does not work where it is 0 (moby/moby#38723). It also sends redirects,
    because replies leave by the interface by which they came in. Both are set right here.
    """

    name = "lb"
    role = "lb"

    def __init__(self, vips: Vips | None = None, *, dsr: bool = False) -> None:
        """Create the placement.

        With `dsr` backends answer the client themselves: the VIP is on the tasks' lo, silent to ARP.
        """
        super().__init__(vips)
        self._dsr = dsr

    def _wanted(self, site: Site) -> dict[str, str]:
        settings = super()._wanted(site)
        if self._dsr:
            # ICMP errors about forwarded packets come from the VIP, to which the packets are still addressed. The VIP
            # is an address of this namespace, so the errors need accept_local (net/ipv4/fib_frontend.c,
            # __fib_validate_source).
            settings[f"net.ipv4.conf.{site.interface}.accept_local"] = "1"
        return settings

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        if endpoint.vip and self._dsr:
            prefix = f"net.ipv4.conf.{endpoint.interface}"
            silent = {f"{prefix}.arp_ignore": "1", f"{prefix}.arp_announce": "2"}
            self._settings.set(endpoint, endpoint.netns, silent)
            Addresses().own(endpoint.netns, "lo", [endpoint.vip])
        return []

    def close_endpoint(self, endpoint: Endpoint, sites: Sequence[Site]) -> None:
        if endpoint.vip and self._dsr:
            Addresses().disown(endpoint.netns, "lo", [endpoint.vip])
            self._settings.put_back(endpoint)


_BRIDGE_NETFILTER = Feature("BRIDGE_NETFILTER", "br_netfilter", "bridged packets pass the hooks of netfilter")


class OverlayPlacement(_Owner):
    """The overlay namespace itself, on br0. This is the closing question of the article (docs/sources.md).

    It needs bridge netfilter, which translates bridged replies.
    """

    name = "overlay"
    _hook: Hook = "bridge"

    def __init__(self, vips: Vips | None = None, *, conntrack: bool = False) -> None:
        """Create the placement. `conntrack`: connection tracking translates, and not a table of the mechanism's own."""
        super().__init__(vips)
        self._conntrack = conntrack

    @classmethod
    def requires(cls, vips: Vips | None = None, *, conntrack: bool = False) -> tuple[Requirement, ...]:
        return (_BRIDGE_NETFILTER, *(anew.REQUIRES if conntrack else ()))

    def open_segment(self, segment: Segment, attachments: Attachments) -> list[Site]:
        address = str(ip_network(segment.subnet)[1])  # swarm gives br0 the subnet's first address
        return [
            Site(
                segment.overlay_netns,
                segment.network,
                segment.node,
                segment.subnet,
                self._hook,
                "hairpin-snat",
                segment.bridge,
                address,
            )
        ]

    def set_up(self, site: Site) -> None:
        # A bridge has the MAC of its lowest port until it is given one (net/bridge/br_stp_if.c,
        # br_stp_recalculate_bridge_id). A task that comes or goes would change it, and clients would go on sending to
        # the MAC by which they know the VIPs. There is no way back: the MAC stays set.
        super().set_up(site)
        with Rtnl(site.netns) as rtnl:
            rtnl.send([rtnl.link_set(site.interface, address=rtnl.mac(site.interface))])
        if self._conntrack:
            anew.look(site.netns, site.interface)

    def clear(self, site: Site) -> None:
        if self._conntrack:
            anew.stop(site.netns, site.interface)
        super().clear(site)

    def _wanted(self, site: Site) -> dict[str, str]:
        # Without bridge-nf-call-iptables a reply from a backend on the same bridge goes straight to the client,
        # untranslated (cloudnativelabs/kube-router#151). If windows are kept, so does a reply ahead of its window:
        # conntrack calls it INVALID, and the client, which does not know that connection, resets the backend's
        # (moby/moby#40374).
        settings = {"net.bridge.bridge-nf-call-iptables": "1", "net.netfilter.nf_conntrack_tcp_be_liberal": "1"}
        return settings | super()._wanted(site)

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        self._hairpin(endpoint, True)
        return []

    def close_endpoint(self, endpoint: Endpoint, sites: Sequence[Site]) -> None:
        self._hairpin(endpoint, False)

    def _hairpin(self, endpoint: Endpoint, on: bool) -> None:
        """Let a backend's port send frames back where they came from.

        A backend that reaches itself answers to br0, whose bridge netfilter sends the frame back to the same port
        (net/bridge/br_netfilter_hooks.c, br_nf_pre_routing_finish).
        """
        with Rtnl(endpoint.overlay_netns) as rtnl:
            rtnl.send([rtnl.hairpin(endpoint.bridge_port, on)])


class BridgePlacement(OverlayPlacement):
    """The ports of the bridge, where frames come in from containers and from other nodes.

    What the bridge itself gets is not balanced: it owns the VIPs, so it answers ARP and pings, and refuses the rest.
    """

    name = "bridge"
    _hook: Hook = "frame"

    def _wanted(self, site: Site) -> dict[str, str]:
        # Frames are translated before bridge netfilter would see them, and it would cost every frame.
        settings = super()._wanted(site) | {"net.bridge.bridge-nf-call-iptables": "0"}
        del settings["net.netfilter.nf_conntrack_tcp_be_liberal"]
        return settings


_NOBODY = "02:00:00:00:00:01"  # a MAC of our choice, so that a device that comes anew is as it was


class Device(NamedTuple):
    """A device that the host placement creates for the VIPs."""

    name: str
    kind: Literal["dummy", "bridge"]


class HostPlacement(_Attached):
    """The node's host namespace.

    A swarm host has no way into the overlay, so the host is given an attachment to it. Containers find the VIP by ARP
    on that attachment. Connections are SNATed to its address, because replies would otherwise bypass the host.
    Forwarded packets pass the node's own firewall, which must accept them (forwarding.py).
    """

    name = "host"
    role = "host"

    def __init__(self, vips: Vips | None = None, *, device: Device | None = None, firewall: bool = True) -> None:
        """Create the placement. The VIPs are on this device, or else on the attachment.

        `firewall`: the node's firewall is told to accept what is forwarded. Some mechanisms do that themselves.
        """
        super().__init__(vips)
        self._own = device
        self._tells_firewall = firewall
        self._firewalls: dict[Site, Firewall] = {}

    @classmethod
    def requires(
        cls, vips: Vips | None = None, *, device: Device | None = None, firewall: bool = True
    ) -> tuple[Requirement, ...]:
        dummy = device and device.kind == "dummy"
        return (Feature("DUMMY", "dummy", "the device that carries the VIPs"),) if dummy else ()

    def set_up(self, site: Site) -> None:
        super().set_up(site)
        if self._own:
            with Rtnl(site.netns) as rtnl:
                rtnl.send([rtnl.link_add(*self._own, address=_NOBODY)], ignore=(errno.EEXIST,))
                rtnl.send([rtnl.link_set(self._own.name, up=True)])
        if self._tells_firewall:
            if site not in self._firewalls:
                self._firewalls[site] = Firewall(site.netns, site.interface)
            self._firewalls[site].allow()

    def clear(self, site: Site) -> None:
        firewall = self._firewalls.get(site)
        if firewall:
            firewall.disallow()
            firewall.close()
            del self._firewalls[site]
        if self._own:
            self._remove(self._own.name, site.netns)
        super().clear(site)

    def intact(self, site: Site) -> bool:
        return site not in self._firewalls or self._firewalls[site].intact()

    def release(self) -> None:
        for firewall in self._firewalls.values():
            firewall.close()
        self._firewalls.clear()

    def _remove(self, device: str, netns: str) -> None:
        with Rtnl(netns) as rtnl:
            links = {link.name: link.index for link in rtnl.links()}
            used = {address["index"] for address in rtnl.addresses()}
            used |= {route.get_attr("RTA_OIF") for route in rtnl.routes()}
            if device in links and links[device] not in used:  # another network on this node may still use it
                rtnl.send([rtnl.link_del(device)])

    def _device(self, site: Site) -> str:
        return self._own.name if self._own else site.interface


def _cgroup_obstacle() -> str:
    """Return what is in the way of programs on cgroups.

    Some hosts have a program on a hook of the root cgroup that allows no other below it.
    """
    try:
        taken = [name for name, (_, hook) in PROGRAMS["socket"].items() if bpf.cgroup_taken("/sys/fs/cgroup", hook)]
    except OSError as error:
        return f"no cgroup v2 at /sys/fs/cgroup: {error.strerror}"
    if not taken:
        return ""
    hooks = ", ".join(name.removeprefix("on_") for name in taken)
    return f"programs on the root cgroup exclude others (BPF_PROG_ATTACH without flags) from {hooks}"


class SocketPlacement(Placement):
    """The container's own connect() and sendmsg(), on its cgroup. No packet is ever sent to the VIP."""

    name = "socket"
    cgroups = True

    @classmethod
    def requires(cls) -> tuple[Requirement, ...]:
        return (
            Feature("CGROUP_BPF", "", "programs on the socket calls of a cgroup"),
            Condition("cgroup hooks", "programs on the socket calls of a cgroup", _cgroup_obstacle),
        )

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        return [_endpoint_site(endpoint, segment, "socket")]


class TcPlacement(Placement):
    """The node's end of each container's veth. The container is untouched."""

    name = "tc"

    @classmethod
    def requires(cls) -> tuple[Requirement, ...]:
        return (
            Feature("NET_SCH_INGRESS", "sch_ingress", "the clsact hooks of an interface"),
            Feature("NET_CLS_BPF", "cls_bpf", "programs at the clsact hooks"),
        )

    def open_endpoint(self, endpoint: Endpoint, segment: Segment) -> list[Site]:
        return [_endpoint_site(endpoint, segment, "tc")]
