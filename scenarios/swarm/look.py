"""What the daemons have programmed: balancers, addresses and neighbours. By it a change is known to be in effect."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing

from msgspec import Struct

from dataplanes.kernel import netns
from dataplanes.kernel.ipvs import Ipvs
from dataplanes.kernel.rtnl import Rtnl

_LISTEN = "0A"  # TCP_LISTEN (include/net/tcp_states.h)
_LOOPBACK, _ALONE = 8, 32
"""The prefix lengths of the loopback's address and of a VIP. The balancer's own address has that of its network."""
_PERMANENT = 0x80  # NUD_PERMANENT (include/uapi/linux/neighbour.h)


class Balancer(Struct, frozen=True):
    """A load-balancer namespace: its own address, all addresses, and of each virtual service the weights by backend."""

    name: str
    own: str
    addresses: Collection[str]
    services: Sequence[Mapping[str, int]]

    def lacks(self, vip: str, wanted: Mapping[str, int]) -> str:
        """Return what is not as wanted of a service, or "". Without wanted backends it is to be gone.

        The daemon adds the VIP before the virtual service, and removes it after that (libnetwork, addLBBackend).
        """
        if not wanted:
            return f"{self.name} still has {vip}" if vip in self.addresses else ""
        found = [each for each in self.services if each.keys() & wanted.keys()]
        if found != [wanted]:
            return f"{self.name} has {found} for {vip}, not {dict(wanted)}"
        return "" if vip in self.addresses else f"{self.name} has no address {vip}"


def balancer(name: str) -> Balancer:
    """Read a load-balancer namespace."""
    with closing(Ipvs(name)) as ipvs:
        services = [{each.address: each.weight for each in service.destinations} for service in ipvs.services()]
    with Rtnl(name) as rtnl:
        found = {a.get_attr("IFA_LOCAL"): a["prefixlen"] for a in rtnl.addresses() if a["family"] == socket.AF_INET}
    own = next((address for address, length in found.items() if _LOOPBACK < length < _ALONE), "")
    return Balancer(name, own, found.keys(), services)


def addresses(namespace: str) -> dict[str, str]:
    """Return the IPv4 addresses in a namespace, each with its interface."""
    with Rtnl(namespace) as rtnl:
        names = {link.index: link.name for link in rtnl.links()}
        return {a.get_attr("IFA_LOCAL"): names[a["index"]] for a in rtnl.addresses() if a["family"] == socket.AF_INET}


def mac(namespace: str, interface: str) -> str:
    """Return the MAC of an interface."""
    with Rtnl(namespace) as rtnl:
        return rtnl.mac(interface)


def listens(namespace: str, port: int) -> bool:
    """Return True if a TCP server listens on a port, which no packet needs to ask (proc_net_tcp)."""
    with netns.inside(namespace), open("/proc/thread-self/net/tcp", encoding="ascii") as file:
        sockets = [line.split() for line in file.readlines()[1:]]
    return any(state == _LISTEN and int(local.partition(":")[2], 16) == port for _, local, _, state, *_ in sockets)


def unknown(overlay: str, remote: Iterable[str]) -> str:
    """Return the remote addresses that an overlay namespace does not know the place of, or ""."""
    with Rtnl(overlay) as rtnl:
        known = {each.get_attr("NDA_DST") for each in rtnl.neighbours() if each["state"] & _PERMANENT}
    lacking = sorted(set(remote) - known)
    return f"{overlay} does not know {', '.join(lacking)}" if lacking else ""
