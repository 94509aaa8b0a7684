"""The addresses of each network and their holders. An address that is in use is refused.

IPVS and eBPF would accept a VIP twice, and the removal of either service would then end both (moby/moby#33402,
moby/libnetwork#1537). A container whose address becomes a VIP cannot be reached any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from dataplanes.errors import Usage
from dataplanes.model import Segment, Service


class Claims:
    """The networks of a plane, and the holder of each address in them. Every refusal is a Usage error."""

    def __init__(self) -> None:
        self._subnets: dict[str, IPv4Network] = {}
        self._holders: dict[str, dict[str, str]] = {}  # network -> address -> its holder

    def add_network(self, segment: Segment) -> bool:
        """Add a network. Return True if it is new. A network that is known must have the same subnet."""
        network, subnet = segment.network, IPv4Network(segment.subnet)
        if network in self._subnets:
            if self._subnets[network] != subnet:
                where = segment.overlay_netns
                raise Usage(f"{network} is {subnet} here and {self._subnets[network]} elsewhere", where=where)
            return False
        self._subnets[network] = subnet
        self._holders[network] = {str(subnet[1]): "the address of the network's bridge"}
        return True

    def drop_network(self, network: str) -> None:
        """Forget a network."""
        del self._subnets[network], self._holders[network]

    def add(self, network: str, address: str, holder: str) -> None:
        """Give an address to a container or an attachment."""
        self._demand_free(network, address, holder)
        self._holders[network][address] = f"the address of {holder}"

    def drop(self, network: str, address: str) -> None:
        """Free an address."""
        self._holders.get(network, {}).pop(address, None)

    def demand_free(self, network: str, known: Mapping[str, Service], wanted: Iterable[Service]) -> None:
        """Refuse services that contradict the known ones or each other.

        A service with a known name replaces that service.
        """
        wanted = list(wanted)
        names, vips = (Counter(getattr(each, field) for each in wanted) for field in ("name", "vip"))
        freed = {known[name].vip for name in names if name in known}
        for service in wanted:
            where = f"{network}/{service.name}"
            if names[service.name] > 1:
                raise Usage("two services have this name", where=where)
            if vips[service.vip] > 1:
                raise Usage(f"{service.vip} is the VIP of two services", where=where)
            if service.vip not in freed:
                self._demand_free(network, service.vip, where)
            backends = Counter(backend.address for backend in service.backends)
            twice = next((address for address, count in backends.items() if count > 1), "")
            if twice:
                raise Usage(f"{twice} is a backend twice", where=where, fix="give it a weight instead")
            if service.vip in backends:
                raise Usage(f"{service.vip} is VIP and backend at once", where=where)

    def replace(self, network: str, old: Iterable[Service], new: Iterable[Service]) -> None:
        """Record VIPs that have changed hands, as `demand_free` has allowed."""
        for service in old:
            self.drop(network, service.vip)
        self._holders[network].update((each.vip, f"the VIP of {each.name}") for each in new)

    def clear(self) -> None:
        """Forget every network."""
        self._subnets.clear()
        self._holders.clear()

    def _demand_free(self, network: str, address: str, where: str) -> None:
        subnet = self._subnets.get(network)
        if subnet is None:
            raise Usage(f"there is no network {network!r}", where=where, fix="add the network first")
        try:
            wanted = IPv4Address(address)
        except AddressValueError as error:
            raise Usage(f"{address!r} is not an IPv4 address", where=where) from error
        if wanted not in subnet:
            raise Usage(f"{address} is outside {network}", where=where, why=f"that is {subnet}")
        if wanted in (subnet.network_address, subnet.broadcast_address):
            raise Usage(
                f"{address} cannot be used", where=where, why=f"it is the first or the last address of {subnet}"
            )
        holder = self._holders[network].get(address)
        if holder:
            raise Usage(f"{address} is taken", where=where, why=f"it is {holder}", fix="choose a free address")
