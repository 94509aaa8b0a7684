"""nftables: DNAT through maps, in the kernel's connection tracking.

`numgen inc`, the only round robin of nft, counts per rule and not per element. So a fixed set of rules and an exact
turn for every service exclude each other. Measured (6.18 host, nft 1.0.6; all services of 3 backends at once / one
more):

    rules                                  1,000 services      10,000 services
    one for all services of N backends      21 ms / 0.1 ms      260 ms / 0.5 ms
    up to 64 for each N                     28 ms / 0.1 ms      310 ms / 0.6 ms
    up to 256 for each N  <- this           48 ms / 0.3 ms      485 ms / 0.7 ms
    one per service, shared map            137 ms / 1.2 ms     19.1 s  /  20 ms
    one per service, its own map            66 ms / 2.3 ms     11.2 s  /  45 ms   (kube-proxy's layout)

The differences arise because libnftables reads every chain and set of the namespace before each command, but no
elements. The last octet of the VIP picks one of 256 counters, so the services of a /24 (Docker's default) never share
one: k*N connections are exactly k per backend, whatever else goes on. In a larger network two services share a counter
if they have the same number of backends and the same last octet. Each is still served in turn when it is used alone. A
client that strictly alternates between two such services makes both uneven. When one of them changes its number of
backends, the position of the other's counter is unknown. `random` needs one rule per N and promises nothing exact.

ICMP is not balanced. The owner of the VIP answers a ping, as in swarm, and in the output hook there is no owner. There
a refused datagram is first an EPERM of send() and then the ECONNREFUSED, as with IPVS, because the drop is on the
sender's own path. A backend that picks itself under "own-source" needs no help: its address was chosen before the DNAT.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter as Count
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from dataplanes.base import Counter, Director, Footprint, Mechanism, Site
from dataplanes.errors import BenchError, Unsupported
from dataplanes.guard import Guard
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.netlink import NetlinkError
from dataplanes.kernel.nft import Nftables
from dataplanes.kernel.undo import Undo
from dataplanes.model import Service, remaining, succeed, turns
from dataplanes.nft_rules import BACKENDS, SERVICES, Ruleset, Scheduler, Slots
from dataplanes.requirements import Feature, Package, Requirement


class NftKnobs(Struct, frozen=True):
    """The way in which a backend is picked: in turn, or at random as in moby and kube-proxy."""

    scheduler: Annotated[
        Scheduler, Meta(description="pick backends in turn, or at random as moby and kube-proxy do")
    ] = "rr"


class Nft(Mechanism):
    """The nftables mechanism, with one of its two ways to pick a backend."""

    name = "nft"

    def __init__(self, knobs: NftKnobs | None = None) -> None:
        self.scheduler = (knobs or NftKnobs()).scheduler
        self.in_turn = self.scheduler == "rr"
        self._guards: dict[str, Guard] = {}  # namespace -> the guard of its directors

    @classmethod
    def requires(cls, knobs: NftKnobs | None = None) -> tuple[Requirement, ...]:
        return (
            Feature("NF_TABLES", "nf_tables", "nftables"),
            Feature("NF_TABLES_IPV4", "nf_tables", "nftables of IPv4"),
            Feature("NF_CONNTRACK", "nf_conntrack", "keeping a connection with its backend"),
            Feature("NF_CT_NETLINK", "nf_conntrack_netlink", "flushing connections to a removed backend"),
            Feature("NF_NAT", "nft_chain_nat", "NAT chains"),
            Feature("NFT_NAT", "nft_nat", "DNAT to a backend, and SNAT for the reply"),
            Feature("NFT_NUMGEN", "nft_numgen", "picking a backend"),
            Feature("NFT_CT", "nft_ct", "matching balanced connections"),
            Feature("NFT_REJECT", "nft_reject", "refusing connections that have no backend"),
            Feature("NFT_REJECT_IPV4", "nft_reject_ipv4", "refusing connections that have no backend"),
            Package("nftables", "python3-nftables", "programming nftables through libnftables"),
        )

    def open(self, site: Site) -> Director:
        if site.hook not in ("output", "input", "bridge") or site.reply == "direct":
            raise Unsupported(f"nft cannot balance at {site.hook}, reply {site.reply}", where=site.netns)
        return NftDirector(site, Ruleset(site, self.scheduler), self._guards.setdefault(site.netns, Guard()))


class ConnectionTable(Protocol):
    """The connection table that keeps connections with their backends."""

    def flush(self, keep: Mapping[str, Collection[str]]) -> int:
        """Delete entries to these VIPs whose backends are others than these: {VIP: backends}. Return their number."""
        ...

    def count(self) -> int:
        """Return the number of entries."""
        ...

    def close(self) -> None:
        """Close what reading the table needs. The entries stay. Idempotent."""
        ...


class NftDirector(Director):
    """The director of one site. Its ruleset says where the rules are and what they do."""

    kept = "conntrack entries"
    """What the footprint calls the entries of the connection table."""

    def __init__(self, site: Site, rules: Ruleset, guard: Guard) -> None:
        self._site = site
        self._guard = guard
        self._rules = rules
        self._services: dict[str, Service] = {}
        self._holders: dict[str, str] = {}  # VIP -> service
        self._before: Count[tuple[str, str]] = Count()  # (VIP, backend) -> the counts of removed elements
        self._open = True
        self._nft = Nftables(site.netns)
        self._connections = self._open_connections()
        try:
            self._cleared = self._doubts()
            self._program(self._rules.base())
        except BenchError:
            self.release()
            raise

    def _open_connections(self) -> ConnectionTable:
        return Conntrack(self._site.netns)

    def apply(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), services)

    def remove(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), ())

    def _known(self, services: Sequence[Service]) -> list[Service]:
        return [self._services[service.name] for service in services if service.name in self._services]

    def _replace(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        wanted: dict[str, Slots | None] = {service.vip: None for service in old}
        wanted |= {service.vip: turns(service) for service in new}
        before = {vip: self._rules.slots.get(vip) for vip in wanted}
        with Undo() as undo:
            undo(partial(self._transact, before))
            self._transact(self._in_turn(wanted))
            self._note(old, new)
            undo(partial(self._note, new, old))
            self._flush(old, new)
        self._forget_counts(wanted)

    def _note(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        """Record that the kernel has these services now."""
        for service in old:
            del self._services[service.name], self._holders[service.vip]
        self._services.update((service.name, service) for service in new)
        self._holders.update((service.vip, service.name) for service in new)

    def resync(self) -> None:
        """Program everything again if somebody else has made a transaction. The turns go on.

        The present state is not compared with the wanted one: other rules and elements may have the same number.
        """
        doubts = self._doubts()
        if doubts != self._cleared:
            sent, taken, slots = self._sent(), self._left(SERVICES), self._rules.slots
            begin = {vip: taken.get(socket.inet_aton(vip), 0) % len(old) for vip, old in slots.items() if old}
            turned = {vip: (*slots[vip][at:], *slots[vip][:at]) for vip, at in begin.items()}
            self._program("\n".join((self._rules.anew(slots | turned), *self._remembered())))
            slots.update(turned)
            self._before.update(sent)
        self._cleared = doubts

    def _remembered(self) -> Iterable[str]:
        """Return the commands that add to a new table what the packets have put into the present one."""
        return ()

    def intact(self) -> bool:
        return self._doubts() == self._cleared

    def _doubts(self) -> int:
        self._generation = self._nft.generation()
        return self._guard.doubts({"generation": self._generation})

    def _run(self, text: str) -> None:
        """Carry out a transaction of our own. The next generation is then not a change by others."""
        self._nft.run(text)
        self._ours()

    def _program(self, text: str) -> None:
        """Program everything: what nft's language has, then the other rules. All of it, or nothing."""
        with Undo() as undo:
            undo(lambda: self._run(self._rules.delete()))
            self._run(text)
            if rules := list(self._rules.rules()):
                self._nft.append(self._rules.family, self._rules.table, rules)
                self._ours()
                self._run(self._rules.ready())

    def _ours(self) -> None:
        self._generation += 1
        self._guard.ours({"generation": self._generation})

    def counters(self) -> list[Counter]:
        sent = self._before + self._sent()
        # Only a connection's first packet passes the maps; conntrack handles the others. So the counters count
        # connections.
        return [
            Counter(self._site.netns, service.name, backend.address, sent[service.vip, backend.address])
            for service in self._services.values()
            for backend in service.backends
        ]

    def _sent(self) -> Count[tuple[str, str]]:
        """Return the connections that the present elements have counted."""
        packets, found = self._left(BACKENDS), Count[tuple[str, str]]()
        for vip, slots in self._rules.slots.items():
            for slot, address in enumerate(slots):
                found[vip, address] += packets.get(_encode(vip, slot), 0)
        return found

    def _left(self, name: str) -> dict[bytes, int]:
        """Return the counters of a map, as far as others have left it."""
        try:
            return self._packets(name)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            return {}

    def _packets(self, name: str, keys: Iterable[bytes] | None = None) -> dict[bytes, int]:
        return self._nft.packets(self._rules.table, name, keys, self._rules.family)

    def footprint(self) -> list[Footprint]:
        netns = self._site.netns
        sizes = [Footprint(netns, f"nft {kind}", count) for kind, count in self._rules.size().items()]
        return [*sizes, Footprint(netns, self.kept, self._connections.count())]

    def close(self) -> None:
        if not self._open:
            return
        with Undo() as undo:
            self._run(self._rules.delete())
            undo(lambda: self._program(self._rules.anew(self._rules.slots)))
            self._flush(list(self._services.values()), ())
        self.release()

    def release(self) -> None:
        self._open = False
        self._nft.close()
        self._connections.close()

    def _in_turn(self, wanted: dict[str, Slots | None]) -> dict[str, Slots | None]:
        """Return the wanted slots in the order in which the present ones continue.

        A service's element is created with the chain that counts its turns, so its own counter tells how many were
        taken.
        """
        slots = self._rules.slots
        anew = [vip for vip, new in wanted.items() if new and slots.get(vip) and len(new) != len(slots[vip])]
        if self._rules.scheduler == "random":
            anew = []
        counts = self._packets(SERVICES, map(socket.inet_aton, anew))
        taken = {socket.inet_ntoa(key): packets for key, packets in counts.items()}
        return {vip: new and succeed(slots.get(vip, ()), new, taken.get(vip, 0)) for vip, new in wanted.items()}

    def _transact(self, wanted: dict[str, Slots | None]) -> None:
        change = self._rules.change(wanted)
        if not change.text:
            self._rules.commit(change)
            return
        counts = self._counts([where for where in change.vacated if wanted[where[0]] is not None])
        self._run(change.text)
        self._rules.commit(change)
        self._before.update(counts)

    def _counts(self, vacated: Iterable[tuple[str, int]]) -> Count[tuple[str, str]]:
        """Read the counters of slots that change hands, before they are removed.

        The backend may still have another slot.
        """
        found: Count[tuple[str, str]] = Count()
        keys = [_encode(vip, slot) for vip, slot in vacated]
        for key, packets in self._packets(BACKENDS, keys).items():
            vip, slot = _decode(key)
            found[vip, self._rules.slots[vip][slot]] += packets
        return found

    def _forget_counts(self, vips: Collection[str]) -> None:
        for vip, address in [pair for pair in self._before if pair[0] in vips]:
            service = self._services.get(self._holders.get(vip, ""))
            if not service or address not in {backend.address for backend in service.backends}:
                del self._before[vip, address]

    def _flush(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        """Forget connections to backends that the VIPs no longer have.

        ConnectionTable to a new VIP from when it was an ordinary address are forgotten, too.

        Drained backends stay. A client whose connection is forgotten learns it by its next packet, which goes to
        another backend that does not know the connection. A UDP flow moves on; without this it would be pinned as long
        as packets come (moby/moby#36878).
        """
        if keep := remaining(old, new):
            self._connections.flush(keep)


def _encode(vip: str, slot: int) -> bytes:
    return socket.inet_aton(vip) + struct.pack("=I", slot)


def _decode(key: bytes) -> tuple[str, int]:
    return socket.inet_ntoa(key[:4]), struct.unpack("=I", key[4:])[0]
