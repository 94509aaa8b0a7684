"""Three ways in which a namespace can own VIPs, so that it accepts packets to them and answers ARP for them."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable

from dataplanes.kernel.rtnl import Rtnl

_GONE = (errno.ESRCH, errno.ENODEV)


class Vips(ABC):
    """A way to own VIPs. To own a VIP twice, or to disown it twice, is no error."""

    def settings(self, interface: str) -> dict[str, str]:
        """Return the sysctls that it needs on an interface."""
        return {}

    @abstractmethod
    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        """Accept packets to these VIPs."""

    @abstractmethod
    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        """Undo `own`."""


class Addresses(Vips):
    """VIPs as addresses of an interface, as in swarm and in kube-proxy."""

    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:  # for EEXIST see moby/moby#51657
            rtnl.send((rtnl.address_add(interface, f"{vip}/32") for vip in vips), ignore=(errno.EEXIST,))

    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
            rtnl.send((rtnl.address_del(interface, f"{vip}/32") for vip in vips), ignore=gone)


class LocalRoutes(Vips):
    """VIPs as routes of type local. Ten thousand VIPs cost as much as one.

    Until Linux 6.13 the addresses of all namespaces are in one hash of 256 buckets (net/ipv4/devinet.c, inet_addr_lst),
    and it is searched for the source of every packet that comes in anywhere (net/ipv4/fib_frontend.c,
    fib_validate_source). Measured on 6.12 with three nodes of 10,000 services: with addresses a connection costs 2.4 %
    more instructions than with one service, with routes 0.1 %.
    """

    def __init__(self, source: str = "") -> None:
        """`source`: the address from which the namespace itself connects to the VIPs; else it is each VIP."""
        self._source = source

    def settings(self, interface: str) -> dict[str, str]:
        # With routes in table local the kernel searches the routes for the source (fib_has_custom_local_routes), which
        # costs 1.4 % of a connection. accept_local spares this search: nobody sends from an address of ours.
        return {f"net.ipv4.conf.{interface}.accept_local": "1"}

    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            rtnl.send((rtnl.local_add(interface, vip, self._source) for vip in vips), ignore=(errno.EEXIST,))

    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            rtnl.send((rtnl.local_del(interface, vip) for vip in vips), ignore=_GONE)


class ForwardedRoutes(Vips):
    """VIPs that the namespace forwards and that are no addresses of its own, as on a node of Kubernetes.

    The interface that they are routed to leads to nobody: what no rule sends elsewhere is lost there. The namespace
    answers ARP for them as a router does for whatever it would send out of another interface (net/ipv4/arp.c,
    arp_fwd_proxy). Without the second setting it would answer up to 0.8 s later.
    """

    def settings(self, interface: str) -> dict[str, str]:
        return {f"net.ipv4.conf.{interface}.proxy_arp": "1", f"net.ipv4.neigh.{interface}.proxy_delay": "0"}

    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            rtnl.send(rtnl.route_add(f"{vip}/32", interface=interface) for vip in vips)

    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            rtnl.send((rtnl.route_del(f"{vip}/32", interface=interface) for vip in vips), ignore=_GONE)
