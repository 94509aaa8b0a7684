"""The nft director on a real kernel: a client, three machines with backends, and a bridge between them.

Everything is one thread: a connection is made, then whichever listener got it is asked. Listeners are bound to no
address, so a machine holds as many backends as it has addresses.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from dataplanes.base import Director, Hook, Reply, Site
from dataplanes.errors import KernelRefused, Unsupported, Usage
from dataplanes.kernel import netns, process, sysctl
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Backend, Service
from dataplanes.nft import Knobs, Nft

PREFIX = f"hnft-{os.getpid()}-"
SWITCH, CLIENT, LB = PREFIX + "sw", PREFIX + "cl", PREFIX + "lb"
MACHINES = [PREFIX + f"m{number}" for number in range(3)]
PORTS = (80, 5353)
IP_PKTINFO = 8  # Python has no name for it before 3.12
VIP, OTHER_VIP = "10.0.0.2", "10.0.0.6"
ADDRESS = {SWITCH: "10.0.0.1", CLIENT: "10.0.0.7", LB: "10.0.0.9"}
BACKENDS = [f"10.0.0.{20 + number}" for number in range(21)]  # in turn on the machines
HOOKS: dict[Hook, tuple[Reply, str, str]] = {
    "output": ("own-source", CLIENT, "eth0"),
    "input": ("snat", LB, "eth0"),
    "bridge": ("hairpin-snat", SWITCH, "br0"),
}
FORWARDS = {"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.send_redirects": "0"}


class World:
    def __init__(self) -> None:
        self.tcp: list[socket.socket] = []
        self.udp: list[socket.socket] = []
        self.open: list[socket.socket] = []
        self.directors: list[Director] = []
        self.owners: set[tuple[str, str]] = set()

    def build(self) -> None:
        for name in (SWITCH, CLIENT, LB, *MACHINES):
            netns.create(name)
        with Rtnl(SWITCH) as rtnl:
            rtnl.send([rtnl.link_add("br0", "bridge")])
            rtnl.send([rtnl.address_add("br0", "10.0.0.1/24"), rtnl.link_set("br0", up=True)])
            rtnl.send([rtnl.link_set("lo", up=True)])
            addresses = {CLIENT: [ADDRESS[CLIENT]], LB: [ADDRESS[LB]]}
            addresses |= {machine: BACKENDS[number::3] for number, machine in enumerate(MACHINES)}
            for number, (name, own) in enumerate(addresses.items()):
                end = f"p{number}"
                rtnl.veth_add(end, "eth0", name, mac=f"02:42:0a:00:00:0{number}", mtu=1450)
                rtnl.send([rtnl.link_set(end, up=True, master=rtnl.index("br0")), rtnl.hairpin(end, True)])
                with Rtnl(name) as inner:
                    inner.send([inner.link_set("lo", up=True), inner.link_set("eth0", up=True)])
                    inner.send(inner.address_add("eth0", f"{address}/24") for address in own)
        sysctl.write(LB, FORWARDS | {"net.ipv4.conf.eth0.send_redirects": "0"})
        bridged = {"net.bridge.bridge-nf-call-iptables": "1", "net.ipv4.conf.br0.send_redirects": "0"}
        sysctl.write(SWITCH, FORWARDS | bridged)
        for machine in MACHINES:
            with netns.inside(machine):
                for port in PORTS:
                    listener = socket.create_server(("0.0.0.0", port), backlog=512)
                    self.tcp.append(listener)
                    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    self.udp.append(datagrams)
                    datagrams.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
                    datagrams.bind(("0.0.0.0", port))

    def demolish(self) -> None:
        for director in self.directors:
            director.close()
        for each in (*self.tcp, *self.udp, *self.open):
            each.close()
        for name in (*MACHINES, LB, CLIENT, SWITCH):
            netns.delete(name)

    def director(self, hook: Hook, *, at: str | None = None, mechanism: Nft | None = None) -> Director:
        reply, name, interface = HOOKS[hook]
        name = at or name
        address = ADDRESS.get(name) or BACKENDS[MACHINES.index(name)]
        site = Site(name, "web net", "node", "10.0.0.0/24", hook, reply, interface, address)
        director = (mechanism or Nft()).open(site)
        self.directors.append(director)
        return director

    def own(self, hook: Hook, vip: str = VIP) -> None:
        """What a placement does: the VIP is an address where it is balanced, but for locally generated packets."""
        _, name, interface = HOOKS[hook]
        if hook != "output":
            with Rtnl(name) as rtnl:
                rtnl.send([rtnl.address_add(interface, f"{vip}/32")])

    def connect(
        self, vip: str = VIP, port: int = 80, *, at: str = CLIENT
    ) -> tuple[socket.socket, socket.socket, str, str]:
        """A connection: (client's end, backend's end, backend's address, source it saw)."""
        with netns.inside(at):
            client = socket.socket()
        self.open.append(client)
        client.settimeout(5)
        client.connect((vip, port))
        listener = self._ready(self.tcp)
        server, (source, _) = listener.accept()
        self.open.append(server)
        assert client.getpeername() == (vip, port)
        return client, server, server.getsockname()[0], source

    def spread(self, count: int, vip: str = VIP, port: int = 80) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(count):
            client, server, backend, _ = self.connect(vip, port)
            server.close()
            client.close()
            found[backend] += 1
        return found

    def datagrams(self, vip: str = VIP, port: int = 5353, *, at: str = CLIENT) -> socket.socket:
        with netns.inside(at):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.open.append(client)
        client.settimeout(5)
        client.connect((vip, port))
        return client

    def exchange(self, client: socket.socket) -> tuple[str, str]:
        """One datagram there and back: (backend's address, source it saw)."""
        client.send(b"?")
        server = self._ready(self.udp)
        _, info, _, peer = server.recvmsg(16, 64)
        asked = info[0][2]
        server.sendmsg(
            [b"!"], [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, asked[8:12], bytes(4)))], 0, peer
        )
        assert client.recv(16) == b"!"  # it is connected: from elsewhere than the VIP nothing would arrive
        return socket.inet_ntoa(asked[8:12]), peer[0]

    def _ready(self, among: list[socket.socket]) -> socket.socket:
        ready, _, _ = select.select(among, [], [], 5)
        assert ready, "no backend was reached"
        found: socket.socket = ready[0]
        return found


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    try:
        made.build()
        yield made
    finally:
        made.demolish()


def service(*addresses: str, vip: str = VIP, drained: tuple[str, ...] = (), name: str = "web") -> Service:
    backends = (*(Backend(each) for each in addresses), *(Backend(each, 0) for each in drained))
    return Service(name, "web net", vip, backends)


def ruleset(name: str) -> list[dict[str, dict[str, object]]]:
    listed = json.loads(process.run(name, ("nft", "-j", "list", "ruleset")))["nftables"]
    return [each for each in listed if "metainfo" not in each]


each_hook = pytest.mark.parametrize("hook", HOOKS)


@each_hook
@pytest.mark.parametrize("backends", [1, 2, 3, 7, 20])
def test_round_robin_is_exact(world: World, hook: Hook, backends: int) -> None:
    world.own(hook)
    world.director(hook).apply([service(*BACKENDS[:backends])])
    assert world.spread(3 * backends) == dict.fromkeys(BACKENDS[:backends], 3)


@each_hook
def test_round_robin_is_exact_for_two_services_in_turn(world: World, hook: Hook) -> None:
    world.own(hook)
    world.own(hook, OTHER_VIP)
    first, second = service(*BACKENDS[:2]), service(*BACKENDS[3:5], vip=OTHER_VIP, name="other")
    world.director(hook).apply([first, second])
    found: Counter[str] = Counter()
    for _ in range(8):
        found += world.spread(1) + world.spread(1, OTHER_VIP)
    assert found == dict.fromkeys((*BACKENDS[:2], *BACKENDS[3:5]), 4)


@each_hook
def test_random_reaches_every_backend(world: World, hook: Hook) -> None:
    world.own(hook)
    world.director(hook, mechanism=Nft(Knobs("random"))).apply([service(*BACKENDS[:3])])
    assert set(world.spread(90)) == set(BACKENDS[:3])  # missing one: 4e-16


def test_weights_are_shares(world: World) -> None:
    weighted = Service("web", "web net", VIP, (Backend(BACKENDS[0], 20), Backend(BACKENDS[1], 60)))
    world.director("output").apply([weighted])
    assert world.spread(8) == {BACKENDS[0]: 2, BACKENDS[1]: 6}


@each_hook
def test_any_port_and_both_transports_and_the_source(world: World, hook: Hook) -> None:
    world.own(hook)
    world.director(hook).apply([service(*BACKENDS[:3])])
    source = ADDRESS[LB if hook == "input" else CLIENT]
    for port in PORTS:
        assert world.spread(3, port=port) == dict.fromkeys(BACKENDS[:3], 1)
        assert world.connect(port=port)[3] == source
        client = world.datagrams(port=port)
        assert world.exchange(client)[1] == source
        assert len({world.exchange(client) for _ in range(4)}) == 1  # a flow stays where it is
        assert len({world.exchange(world.datagrams(port=port))[0] for _ in range(3)}) == 3


@each_hook
def test_a_backend_reaches_itself_and_the_others(world: World, hook: Hook) -> None:
    world.own(hook)
    world.director(hook, at=MACHINES[0] if hook == "output" else None).apply([service(*BACKENDS[:2])])
    sources = {"output": BACKENDS[0], "input": ADDRESS[LB], "bridge": ADDRESS[SWITCH]}
    seen = {(backend, source) for _ in range(4) for _, _, backend, source in [world.connect(at=MACHINES[0])]}
    assert seen == {
        (BACKENDS[0], sources[hook]),
        (BACKENDS[1], sources[hook] if hook == "input" else BACKENDS[0]),
    }


@each_hook
@pytest.mark.parametrize("drained", [(), (BACKENDS[0],)], ids=["none", "drained"])
def test_without_a_backend_it_is_refused(world: World, hook: Hook, drained: tuple[str, ...]) -> None:
    world.own(hook)
    director = world.director(hook)
    director.apply([service(drained=drained)])
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        world.connect()
    client = world.datagrams()
    if hook == "output":
        with pytest.raises(PermissionError):
            client.send(b"?")
    else:
        client.send(b"?")
    with pytest.raises(ConnectionRefusedError):
        client.recv(16)
    assert time.monotonic() - began < 3
    assert world.spread(1, BACKENDS[4]) == {BACKENDS[4]: 1}  # what is no VIP is nobody's business
    director.apply([service(BACKENDS[1])])
    assert world.spread(2) == {BACKENDS[1]: 2}
    assert world.exchange(client)[0] == BACKENDS[1]


@each_hook
def test_drain_keeps_what_is_established(world: World, hook: Hook) -> None:
    world.own(hook)
    director = world.director(hook)
    director.apply([service(BACKENDS[0])])
    client, server, _, _ = world.connect()
    flow = world.datagrams()
    assert world.exchange(flow)[0] == BACKENDS[0]
    director.apply([service(BACKENDS[1], drained=(BACKENDS[0],))])
    assert world.spread(4) == {BACKENDS[1]: 4}
    client.send(b"still")
    server.settimeout(5)
    assert server.recv(16) == b"still"
    assert world.exchange(flow)[0] == BACKENDS[0]


@each_hook
def test_removing_a_backend_moves_udp_and_resets_tcp(world: World, hook: Hook) -> None:
    world.own(hook)
    director = world.director(hook)
    director.apply([service(BACKENDS[0])])
    client, _, _, _ = world.connect()
    flow = world.datagrams()
    assert world.exchange(flow)[0] == BACKENDS[0]
    director.apply([service(BACKENDS[1])])
    assert world.exchange(flow)[0] == BACKENDS[1]
    client.send(b"?")
    with pytest.raises(ConnectionResetError):
        client.recv(16)


@each_hook
def test_removing_the_last_backend_resets_tcp(world: World, hook: Hook) -> None:
    world.own(hook)
    director = world.director(hook)
    director.apply([service(BACKENDS[0])])
    client, _, _, _ = world.connect()
    director.apply([service()])
    client.send(b"?")
    with pytest.raises(ConnectionResetError):
        client.recv(16)


def test_other_connections_survive_a_removal(world: World) -> None:
    director = world.director("output")
    director.apply([service(*BACKENDS[:3])])
    links = [world.connect()[:3] for _ in range(6)]
    flows = [(flow, world.exchange(flow)[0]) for flow in [world.datagrams() for _ in range(6)]]
    director.apply([service(*BACKENDS[1:3])])
    for client, server, backend in reversed(links):
        if backend != BACKENDS[0]:
            server.settimeout(5)
            client.send(b"mine")
            assert server.recv(16) == b"mine"
    for flow, backend in reversed(flows):
        now = world.exchange(flow)[0]
        assert now == backend if backend != BACKENDS[0] else now in BACKENDS[1:3]


def test_a_flow_older_than_its_service_finds_it(world: World) -> None:
    """Conntrack decides about NAT once per flow: one that began unbalanced is forgotten when the VIP appears."""
    director = world.director("output")
    with Rtnl(CLIENT) as rtnl:
        rtnl.send([rtnl.neighbour_set("eth0", VIP, "02:42:0a:00:00:fe")])
    flow = world.datagrams()
    flow.send(b"into the void")
    director.apply([service(BACKENDS[0])])
    assert world.exchange(flow)[0] == BACKENDS[0]


def test_ping_is_answered_by_the_owner_only(world: World) -> None:
    world.own("input")
    world.director("input").apply([service(BACKENDS[0])])
    with netns.inside(CLIENT), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(5)
        body = struct.pack(">BBHHH", 8, 0, 0, 77, 1)
        raw.sendto(body[:2] + struct.pack(">H", 0xFFFF - 0x0800 - 77 - 1) + body[4:], (VIP, 0))
        answer, (source, _) = raw.recvfrom(128)
    assert source == VIP
    assert answer[20] == 0  # echo reply
    with Conntrack(LB) as table:
        assert table.count() >= 1
        assert table.flush({VIP: [BACKENDS[0]]}) == 1  # answered by the VIP itself
        assert table.flush({VIP: []}) == 0


@each_hook
def test_removal_and_close_leave_nothing(world: World, hook: Hook) -> None:
    world.own(hook)
    _, name, _ = HOOKS[hook]
    director = world.director(hook)
    empty = ruleset(name)
    many = [service(BACKENDS[0], vip=f"10.9.0.{number}", name=f"s{number}") for number in range(1, 20)]
    director.apply([service(*BACKENDS[:3]), *many])
    world.connect()
    world.exchange(world.datagrams())
    director.remove([service(), *many])
    with Conntrack(name) as table:
        assert table.flush({VIP: []}) == 0
        assert ruleset(name) == empty
        director.apply([service(*BACKENDS[:3])])
        world.connect()
        director.close()
        director.close()
        assert table.flush({VIP: []}) == 0
    assert ruleset(name) == []


def test_a_refused_transaction_changes_nothing(world: World) -> None:
    director = world.director("output")
    director.apply([service(*BACKENDS[:2])])
    # Somebody deletes an element behind our back: a transaction that must delete it is refused as a whole.
    process.run(CLIENT, ("nft", "delete element ip vip-web_20_net services { 10.0.0.2 }"))
    before = ruleset(CLIENT)
    fresh = service(BACKENDS[5], vip=OTHER_VIP, name="other")
    with pytest.raises(KernelRefused, match="No such file or directory") as refused:
        director.apply([fresh, service(*BACKENDS[:3])])
    assert refused.value.where == CLIENT
    assert ruleset(CLIENT) == before
    director.apply([fresh])
    assert world.spread(2, OTHER_VIP) == {BACKENDS[5]: 2}


def test_refusals(world: World) -> None:
    director = world.director("output")
    with pytest.raises(KernelRefused, match="File exists"):
        world.director("output")
    director.apply([service(BACKENDS[0])])
    with pytest.raises(Usage, match=r"10\.0\.0\.2 is the VIP of two services"):
        director.apply([service(BACKENDS[1], name="thief")])
    assert world.spread(2) == {BACKENDS[0]: 2}
    direct = Site(CLIENT, "n", "node", "10.0.0.0/24", "input", "direct", "eth0", ADDRESS[CLIENT])
    with pytest.raises(Unsupported):
        Nft().open(direct)


def test_a_vip_passes_to_another_service(world: World) -> None:
    director = world.director("output")
    director.apply([service(BACKENDS[0])])
    director.apply([service(BACKENDS[0], vip=OTHER_VIP), service(BACKENDS[1], name="heir")])
    assert world.spread(2) == {BACKENDS[1]: 2}
    assert world.spread(2, OTHER_VIP) == {BACKENDS[0]: 2}


def test_counters_follow_the_backend(world: World) -> None:
    director = world.director("output")
    director.apply([service(*BACKENDS[:3])])
    world.spread(9)
    director.apply([service(BACKENDS[1], BACKENDS[2], drained=(BACKENDS[0],))])  # slots move up
    client, server, _, _ = world.connect()
    client.send(b"second packet")
    server.settimeout(5)
    assert server.recv(16)
    world.spread(3)
    assert {each.backend: each.connections for each in director.counters()} == {
        BACKENDS[0]: 3,
        BACKENDS[1]: 5,
        BACKENDS[2]: 5,
    }
    director.apply([service(BACKENDS[1])])
    director.apply([service(*BACKENDS[:2])])
    assert {each.backend: each.connections for each in director.counters()} == {BACKENDS[0]: 0, BACKENDS[1]: 5}


@each_hook
def test_footprint_is_what_nft_lists(world: World, hook: Hook) -> None:
    _, name, _ = HOOKS[hook]
    director = world.director(hook)
    director.apply([service(*BACKENDS[:3]), service(*BACKENDS[:3], vip="10.0.1.2", name="twin")])
    director.apply([service(vip=OTHER_VIP, name="empty"), service(*BACKENDS[:5], vip="10.0.0.3", name="five")])
    listed = ruleset(name)
    kinds = Counter(kind for each in listed for kind in each)
    sets = [each[kind] for each in listed for kind in each if kind in ("set", "map")]
    told = {each.kind: each.objects for each in director.footprint() if each.kind.startswith("nft")}
    assert told == {
        "nft chains": kinds["chain"],
        "nft rules": kinds["rule"],
        "nft sets": len(sets),
        "nft elements": sum(len(each.get("elem", [])) for each in sets),  # type: ignore[arg-type, misc]
    }


def test_one_service_more_costs_a_fraction_of_many(world: World) -> None:
    """Targets are 1 s for 1,000 and 20 ms for one more; as a ratio it holds under emulation as well."""
    director = world.director("output")

    def numbered(number: int) -> Service:
        return service(*BACKENDS[:3], vip=f"10.{16 + number // 250}.0.{number % 250}", name=f"s{number}")

    def seconds(services: list[Service]) -> float:
        began = time.perf_counter()
        director.apply(services)
        return time.perf_counter() - began

    all_at_once = seconds([numbered(number) for number in range(1000)])
    one_more = min(seconds([numbered(number)]) for number in range(1000, 1005))
    assert one_more < all_at_once / 4
    assert all_at_once < 20
    director.apply([service(*BACKENDS[:3])])
    assert world.spread(6) == dict.fromkeys(BACKENDS[:3], 2)
