"""The nft director on a real kernel, between bridged machines, at each hook."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from dataplanes.base import Hook, Site
from dataplanes.errors import KernelRefused, Unsupported
from dataplanes.kernel import netns, process
from dataplanes.kernel.conntrack import Conntrack
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.model import Backend, Service
from dataplanes.nft import Nft, NftKnobs
from tests.lab.bridged import (
    ADDRESS,
    BACKENDS,
    CLIENT,
    HOOKS,
    LB,
    MACHINES,
    OTHER_VIP,
    PORTS,
    SWITCH,
    VIP,
    World,
)

pytestmark = pytest.mark.planes("nft-lb", "nft-bridge")


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


def test_round_robin_goes_on_where_it_was_when_backends_come_and_go(world: World) -> None:
    director = world.director("output")
    found: Counter[str] = Counter()
    for number in range(12):
        director.apply([service(*BACKENDS[: 2 + number % 2])])
        found += world.spread(1)
    assert found == {BACKENDS[0]: 6, BACKENDS[1]: 6}
    director.apply([service(*BACKENDS[:5])])
    assert world.spread(2) == {BACKENDS[0]: 1, BACKENDS[2]: 1}  # the second backend had the last turn
    director.apply([service(*BACKENDS[1:5])])  # three of five backends have not had their turn
    assert world.spread(3) == dict.fromkeys((BACKENDS[1], *BACKENDS[3:5]), 1)
    director.apply([service(BACKENDS[0], *BACKENDS[2:5])])  # as many backends as before: the new one has the free place
    assert world.spread(4) == dict.fromkeys((BACKENDS[0], *BACKENDS[2:5]), 1)


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
    world.director(hook, mechanism=Nft(NftKnobs("random"))).apply([service(*BACKENDS[:3])])
    assert set(world.spread(90)) == set(BACKENDS[:3])  # the probability of missing one is 4e-16


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
        assert len({world.exchange(client) for _ in range(4)}) == 1  # a flow stays with its backend
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
    assert world.spread(1, BACKENDS[4]) == {BACKENDS[4]: 1}  # an address that is no VIP is not balanced
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
    """Conntrack decides about NAT once per flow, so a flow that began unbalanced is forgotten when the VIP appears."""
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
    assert answer[20] == 0  # an echo reply
    with Conntrack(LB) as table:
        assert table.count() >= 1
        assert table.flush({VIP: [BACKENDS[0]]}) == 1  # the VIP itself answers
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
    # Somebody else deletes an element. A transaction that must delete it, too, is refused as a whole.
    assert director.intact()
    process.run(CLIENT, ("nft", "delete element ip vip-web_20_net services { 10.0.0.2 }"))
    before = ruleset(CLIENT)
    fresh = service(BACKENDS[5], vip=OTHER_VIP, name="other")
    assert not director.intact()
    with pytest.raises(KernelRefused, match="No such file or directory") as refused:
        director.apply([fresh, service(*BACKENDS[:3])])
    assert refused.value.where == CLIENT
    assert ruleset(CLIENT) == before
    director.apply([fresh])
    assert world.spread(2, OTHER_VIP) == {BACKENDS[5]: 2}
    director.resync()
    assert director.intact()
    director.apply([service(*BACKENDS[:3])])
    assert world.spread(3) == dict.fromkeys(BACKENDS[:3], 1)


FLUSHES = (
    "flush ruleset",
    "flush table ip vip-web_20_net",
    "delete table ip vip-web_20_net",
    "flush set ip vip-web_20_net vips",
)


@each_hook
@pytest.mark.parametrize("flush", FLUSHES)
def test_whatever_is_flushed_is_noticed_and_restored(world: World, hook: Hook, flush: str) -> None:
    world.own(hook)
    director = world.director(hook)
    director.apply([service(*BACKENDS[:3]), service(vip=OTHER_VIP, name="empty")])
    _, name, _ = HOOKS[hook]
    assert director.intact()
    before = ruleset(name)
    process.run(name, ("nft", flush.replace("T", "vip-web_20_net")))
    assert not director.intact()
    director.resync()
    assert director.intact()
    assert len(ruleset(name)) == len(before)
    assert world.spread(6) == dict.fromkeys(BACKENDS[:3], 2)
    director.close()
    assert ruleset(name) == []


def test_what_others_do_in_the_namespace_is_no_flush(world: World) -> None:
    director = world.director("output")
    director.apply([service(*BACKENDS[:2])])
    world.spread(1)
    process.run(CLIENT, ("nft", "add table ip theirs"))
    assert not director.intact()
    director.resync()
    assert {each.backend: each.connections for each in director.counters()} == {BACKENDS[0]: 1, BACKENDS[1]: 0}
    assert world.spread(1) == {BACKENDS[1]: 1}  # it is this backend's turn
    assert {each.backend: each.connections for each in director.counters()} == dict.fromkeys(BACKENDS[:2], 1)
    process.run(CLIENT, ("nft", "delete table ip theirs"))


def test_refusals(world: World) -> None:
    world.director("output")
    with pytest.raises(KernelRefused, match="File exists"):
        world.director("output")
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
    director.apply([service(BACKENDS[1], BACKENDS[2], drained=(BACKENDS[0],))])  # the slots move up
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
    """The targets are 1 s for 1,000 services and 20 ms for one more. As a ratio this holds under emulation as well."""
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
