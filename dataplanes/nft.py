"""nftables: DNAT through maps, in the kernel's connection tracking.

`numgen inc`, the only round robin nft has, counts per rule and not per element: a fixed set of rules and an exact turn
for every service exclude each other. Measured (6.18 host, nft 1.0.6; all services of 3 backends at once / one more):

    rules                                  1,000 services      10,000 services
    one for all services of N backends      21 ms / 0.1 ms      260 ms / 0.5 ms
    up to 64 for each N                     28 ms / 0.1 ms      310 ms / 0.6 ms
    up to 256 for each N  <- this           48 ms / 0.3 ms      485 ms / 0.7 ms
    one per service, shared map            137 ms / 1.2 ms     19.1 s  /  20 ms
    one per service, its own map            66 ms / 2.3 ms     11.2 s  /  45 ms   (kube-proxy's layout)

Before each command libnftables reads every chain and set of the namespace, but no elements: that is the difference.
With 256 counters, picked by the VIP's last octet, the services of a /24 (Docker's default) never share one: k*N
connections are exactly k per backend whatever else goes on. In a larger network two services share a counter if they
have the same number of backends and the same last octet. Each is still served in turn when used alone, but a client
that strictly alternates between two such makes both lopsided, and when one changes its number of backends, where the
other's counter is at is not known. `random` needs one rule per N and promises nothing exact.

ICMP is not balanced: a ping is answered by whoever owns the VIP, as in swarm, so by nobody in the output hook. There a
refused datagram is first an EPERM of send(), then the ECONNREFUSED, as with IPVS: the drop is on the sender's own path.
A backend that picks itself under "own-source" needs no help: its address was chosen before the DNAT.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.errors import BenchError, Unsupported, Usage
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.nft import Nftables
from dataplanes.model import Service, turns
from dataplanes.nft_rules import BACKENDS, SERVICES, Ruleset, Scheduler, Slots, succeed
from dataplanes.requirements import Feature, Package, Requirement


class Knobs(Struct, frozen=True):
    """How a backend is picked: in turn, or at random as moby and kube-proxy do."""

    scheduler: Annotated[Scheduler, Meta(description="in turn, or at random as moby and kube-proxy pick")] = "rr"


class Nft(Mechanism):
    """nftables with one of its two ways of picking a backend."""

    name = "nft"

    def __init__(self, knobs: Knobs | None = None) -> None:
        self.scheduler = (knobs or Knobs()).scheduler

    def requires(self) -> tuple[Requirement, ...]:
        return (
            Feature("NF_TABLES", "nf_tables", "nftables"),
            Feature("NF_TABLES_IPV4", "nf_tables", "nftables of IPv4"),
            Feature("NF_CONNTRACK", "nf_conntrack", "a connection stays with its backend"),
            Feature("NF_CT_NETLINK", "nf_conntrack_netlink", "flushing connections to a removed backend"),
            Feature("NF_NAT", "nft_chain_nat", "NAT chains"),
            Feature("NFT_NAT", "nft_nat", "dnat to a backend, snat of the reply's way back"),
            Feature("NFT_NUMGEN", "nft_numgen", "picking a backend"),
            Feature("NFT_CT", "nft_ct", "telling balanced connections from others"),
            Feature("NFT_REJECT", "nft_reject", "refusing what has no backend"),
            Feature("NFT_REJECT_IPV4", "nft_reject_ipv4", "refusing what has no backend"),
            Package("nftables", "python3-nftables", "programming nftables through libnftables"),
        )

    def open(self, site: Site) -> Director:
        if site.hook not in ("output", "input", "bridge") or site.reply == "direct":
            raise Unsupported(f"nft cannot balance at {site.hook}, reply {site.reply}", where=site.netns)
        return _NftDirector(site, self.scheduler)


class _NftDirector(Director):
    def __init__(self, site: Site, scheduler: Scheduler) -> None:
        self._site = site
        self._rules = Ruleset(site, scheduler)
        self._services: dict[str, Service] = {}
        self._holders: dict[str, str] = {}  # VIP -> service
        self._before: dict[tuple[str, str], int] = {}  # (VIP, backend) -> connections counted by elements that went
        self._open = True
        self._nft = Nftables(site.netns)
        self._conntrack = Conntrack(site.netns)
        try:
            self._nft.run(self._rules.base())
        except BenchError:
            self._release()
            raise

    def apply(self, services: Sequence[Service]) -> None:
        known = [self._services.get(service.name) for service in services]
        moved = {old.vip for old, new in zip(known, services, strict=True) if old and old.vip != new.vip}
        wanted: dict[str, Slots | None] = dict.fromkeys(moved)
        for service in services:
            holder = self._holders.get(service.vip, service.name)
            if wanted.get(service.vip) is not None or (holder != service.name and service.vip not in moved):
                raise Usage(f"{service.vip} is the VIP of two services", where=f"{service.network}/{service.name}")
            wanted[service.vip] = turns(service)
        self._transact(self._in_turn(wanted))
        for vip in moved:
            self._holders.pop(vip, None)
        self._holders.update((service.vip, service.name) for service in services)
        self._services.update((service.name, service) for service in services)
        self._forget_counts(wanted)
        shrunk = [new.vip for old, new in zip(known, services, strict=True) if not old or _lost(old, new)]
        self._flush((*moved, *shrunk))

    def remove(self, services: Sequence[Service]) -> None:
        gone = [self._services[service.name] for service in services if service.name in self._services]
        self._transact({service.vip: None for service in gone})
        for service in gone:
            del self._services[service.name], self._holders[service.vip]
        self._forget_counts({service.vip for service in gone})
        self._flush([service.vip for service in gone])

    def counters(self) -> list[Counter]:
        sent = dict(self._before)
        for key, packets in self._nft.packets(self._rules.table, BACKENDS).items():
            vip, slot = _decode(key)
            pair = vip, self._rules.slots[vip][slot]
            sent[pair] = sent.get(pair, 0) + packets
        # Only a connection's first packet passes the maps, conntrack sees to the rest: what it counts are connections.
        return [
            Counter(self._site.netns, service.name, backend.address, sent.get((service.vip, backend.address), 0))
            for service in self._services.values()
            for backend in service.backends
        ]

    def footprint(self) -> list[Footprint]:
        netns = self._site.netns
        sizes = [Footprint(netns, f"nft {kind}", count) for kind, count in self._rules.size().items()]
        return [*sizes, Footprint(netns, "conntrack entries", self._conntrack.count())]

    def close(self) -> None:
        if not self._open:
            return
        self._nft.run(self._rules.delete())
        vips = list(self._holders)
        self._services.clear()
        self._holders.clear()
        self._flush(vips)
        self._release()

    def _release(self) -> None:
        self._open = False
        self._nft.close()
        self._conntrack.close()

    def _in_turn(self, wanted: dict[str, Slots | None]) -> dict[str, Slots | None]:
        """The slots wanted, in the order in which those that are there go on.

        A service's element is made with the chain that counts its turns, so its own counter tells how many have been.
        """
        slots = self._rules.slots
        anew = [vip for vip, new in wanted.items() if new and slots.get(vip) and len(new) != len(slots[vip])]
        if self._rules.scheduler == "random":
            anew = []
        counts = self._nft.packets(self._rules.table, SERVICES, map(socket.inet_aton, anew))
        taken = {socket.inet_ntoa(key): packets for key, packets in counts.items()}
        return {vip: new and succeed(slots.get(vip, ()), new, taken.get(vip, 0)) for vip, new in wanted.items()}

    def _transact(self, wanted: dict[str, Slots | None]) -> None:
        change = self._rules.change(wanted)
        if change.text:
            self._keep_counts([where for where in change.vacated if wanted[where[0]] is not None])
            self._nft.run(change.text)
        self._rules.commit(change)

    def _keep_counts(self, vacated: Iterable[tuple[str, int]]) -> None:
        """A slot that changes hands takes its counter along; its backend may well live on in another one."""
        keys = [_encode(vip, slot) for vip, slot in vacated]
        for key, packets in self._nft.packets(self._rules.table, BACKENDS, keys).items():
            vip, slot = _decode(key)
            pair = vip, self._rules.slots[vip][slot]
            self._before[pair] = self._before.get(pair, 0) + packets

    def _forget_counts(self, vips: Collection[str]) -> None:
        for vip, address in [pair for pair in self._before if pair[0] in vips]:
            service = self._services.get(self._holders.get(vip, ""))
            if not service or address not in {backend.address for backend in service.backends}:
                del self._before[vip, address]

    def _flush(self, vips: Iterable[str]) -> None:
        """Forget connections to backends the VIPs no longer have; a new VIP's, from when it was just an address, too.

        Drained backends are still had. A client whose connection is forgotten is told at its next packet: that goes to
        another backend, which does not know it. UDP moves on, where it would be pinned as long as packets come
        (moby/moby#36878).
        """
        held = {vip: self._services[self._holders[vip]] if vip in self._holders else None for vip in vips}
        if held:
            backends = {vip: [b.address for b in service.backends] if service else () for vip, service in held.items()}
            self._conntrack.flush(backends)


def _lost(old: Service, new: Service) -> bool:
    addresses = {backend.address for backend in new.backends}
    return old.vip != new.vip or any(backend.address not in addresses for backend in old.backends)


def _encode(vip: str, slot: int) -> bytes:
    return socket.inet_aton(vip) + struct.pack("=I", slot)


def _decode(key: bytes) -> tuple[str, int]:
    return socket.inet_ntoa(key[:4]), struct.unpack("=I", key[4:])[0]
