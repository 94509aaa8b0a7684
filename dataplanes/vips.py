"""How a namespace takes packets to the VIPs for its own, and answers ARP for them."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterable

from dataplanes.kernel.rtnl import Rtnl


class Vips(ABC):
    """A way to own VIPs. One that is owned already, or no longer, is fine."""

    def settings(self, interface: str) -> dict[str, str]:
        """The sysctls it needs where it is used."""
        return {}

    @abstractmethod
    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        """Take packets to these."""

    @abstractmethod
    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        """Undo `own`."""


class Addresses(Vips):
    """As addresses of an interface: swarm's way, and kube-proxy's."""

    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:  # EEXIST: moby/moby#51657
            rtnl.send((rtnl.address_add(interface, f"{vip}/32") for vip in vips), ignore=(errno.EEXIST,))

    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
            rtnl.send((rtnl.address_del(interface, f"{vip}/32") for vip in vips), ignore=gone)


class LocalRoutes(Vips):
    """As routes of type local, so that ten thousand cost what one costs.

    Until Linux 6.13 the addresses of all namespaces are in one hash of 256 buckets (net/ipv4/devinet.c, inet_addr_lst),
    and it is searched for the source of every packet that comes in anywhere (net/ipv4/fib_frontend.c,
    fib_validate_source). Measured on 6.12, three nodes of 10,000 services: as addresses 2.4 % more instructions per
    connection than with one service, as routes 0.1 %.
    """

    def settings(self, interface: str) -> dict[str, str]:
        # With routes in table local the source is sought among the routes (fib_has_custom_local_routes): 1.4 % of a
        # connection, to find out that nobody sends from an address of ours.
        return {f"net.ipv4.conf.{interface}.accept_local": "1"}

    def own(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            rtnl.send((rtnl.local_add(interface, vip) for vip in vips), ignore=(errno.EEXIST,))

    def disown(self, netns: str, interface: str, vips: Iterable[str]) -> None:
        with Rtnl(netns) as rtnl:
            rtnl.send((rtnl.local_del(interface, vip) for vip in vips), ignore=(errno.ESRCH, errno.ENODEV))
