"""A placed plane has programmed what is wanted, through changes, refusals at any step, and foreign hands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dataplanes.base import Site
from dataplanes.errors import KernelRefused, Usage
from dataplanes.model import Backend, Endpoint, Segment, Service
from dataplanes.placed import PlacedPlane
from tests.unit.written import NODES, SUBNETS, Anywhere, Lab, World, Written

networks, nodes, names = st.sampled_from(["a", "a", "b"]), st.sampled_from(NODES), st.sampled_from(["c1", "c2", "c3"])
hosts = st.sampled_from([2, 3, 4, 2, 3, 4, 1, 100])  # the bridge's, some that may be anybody's, an attachment's
services = st.lists(st.tuples(networks, st.sampled_from(["s1", "s2", "s3"]), hosts, st.integers(0, 2)), max_size=4)
refusals = st.tuples(st.one_of(st.just(0), st.integers(1, 14)), st.booleans())
Asked = Sequence[tuple[str, str, int, int]]


class Life(RuleBasedStateMachine):
    """`plane` is what is tested; `segments`, `endpoints` and `wanted` are what it was told and has taken on."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.mechanism = Written(self.world)
        self.plane = PlacedPlane("written-anywhere", Anywhere(self.world), self.mechanism, Lab(self.world))
        self.segments: dict[tuple[str, str], Segment] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self.wanted: dict[str, dict[str, Service]] = {}

    # -- the steps ----------------------------------------------------------------------------------------------

    @rule(network=networks, node=nodes, refused=refusals)
    def add_segment(self, network: str, node: str, refused: tuple[int, bool]) -> None:
        segment = Segment(node, network, f"{SUBNETS[network]}.0/24", node, f"{node}.{network}")
        there = (network, node) in self.segments
        taken = f"{SUBNETS[network]}.{100 + NODES.index(node)}" in self.addresses(network)
        with self.change(refused, wrong=there or taken) as done:
            self.plane.add_segment(segment)
        if done:
            self.segments[network, node] = segment

    @rule(network=networks, node=nodes, name=names, host=hosts, refused=refusals)
    def add_endpoint(self, network: str, node: str, name: str, host: int, refused: tuple[int, bool]) -> None:
        address = f"{SUBNETS[network]}.{host}"
        endpoint = Endpoint(name, network, node, f"{name}.{network}", "eth0", address, "", "", "")
        wrong = (network, node) not in self.segments or (network, name) in self.endpoints
        with self.change(refused, wrong=wrong or address in self.addresses(network)) as done:
            self.plane.add_endpoint(endpoint)
        if done:
            self.endpoints[network, name] = endpoint

    @rule(network=networks, name=names, refused=refusals)
    def remove_endpoint(self, network: str, name: str, refused: tuple[int, bool]) -> None:
        absent = Endpoint(name, network, "n1", "", "eth0", "", "", "", "")
        endpoint = self.endpoints.get((network, name), absent)
        with self.change(refused) as done:
            self.plane.remove_endpoint(endpoint)
        if done:
            self.endpoints.pop((network, name), None)
            self.world.damaged.discard(endpoint.netns)

    @rule(asked=services, refused=refusals)
    def apply(self, asked: Asked, refused: tuple[int, bool]) -> None:
        found = [
            Service(name, network, f"{SUBNETS[network]}.{host}", tuple(Backend(f"10.9.9.{n}") for n in range(count)))
            for network, name, host, count in asked
        ]
        with self.change(refused, wrong=self.contradict(found)) as done:
            self.plane.apply(found)
        if done:
            for service in found:
                if self.wanted.setdefault(service.network, {}).get(service.name) != service:
                    self.restored(service.network)
                self.wanted[service.network][service.name] = service

    @rule(asked=services, refused=refusals)
    def remove(self, asked: Asked, refused: tuple[int, bool]) -> None:
        with self.change(refused) as done:
            self.plane.remove([Service(name, network, "") for network, name, _, _ in asked])
        if done:
            for network, name, _, _ in asked:
                if self.wanted.get(network, {}).pop(name, None):
                    self.restored(network)

    @rule(refused=refusals)
    def close(self, refused: tuple[int, bool]) -> None:
        with self.change(refused) as done:
            self.plane.close()
        if done:
            assert self.mechanism.closed
            self.segments, self.endpoints, self.wanted = {}, {}, {}
            self.world.damaged.clear()
        self.mechanism.closed = False

    @rule(number=st.integers(0, 20), also_ready=st.booleans())
    def foreign_hands(self, number: int, also_ready: bool) -> None:
        """Somebody flushes a namespace: the director notices, and the placement may."""
        if spaces := sorted(self.world.programmed):
            netns = spaces[number % len(spaces)]
            if self.world.programmed[netns] or also_ready:
                self.world.damaged.add(netns)
                self.world.programmed[netns] = {}
                self.world.published.pop(netns, None)
                self.world.ready -= {netns} if also_ready else set()

    @rule(number=st.integers(0, 20), first=st.integers(0, 6))
    def resync(self, number: int, first: int) -> None:
        """One site that cannot be restored keeps no other from it."""
        self.world.joined.clear()
        self.world.refused_at, self.world.half = first, False
        try:
            self.plane.resync()
            refused = False
        except KernelRefused:
            refused = True
        assert refused == (first > 0 >= self.world.refused_at)
        if refused:
            unlike = [netns for netns, held in self.world.programmed.items() if held != self.held(netns)]
            assert len(unlike) <= 1
            self.world.refused_at = 0
            self.plane.resync()
        self.world.refused_at = 0
        self.world.damaged.clear()

    # -- what holds ---------------------------------------------------------------------------------------------

    @invariant()
    def what_is_programmed_is_what_is_wanted(self) -> None:
        spaces = {f"lb.{node}.{network}": network for network, node in self.segments}
        assert set(self.world.attached) == set(spaces)
        assert self.world.segments == set(self.segments)
        spaces |= {endpoint.netns: endpoint.network for endpoint in self.endpoints.values()}
        assert self.world.joined == {endpoint.netns for endpoint in self.endpoints.values()}
        assert set(self.world.programmed) == set(spaces)
        for netns, network in spaces.items():
            if netns not in self.world.damaged:
                known = self.wanted.get(network, {})
                assert netns in self.world.ready
                assert self.world.programmed[netns] == known
                assert self.world.published.get(netns, set()) == {each.vip for each in known.values()}
        assert {each.netns for each in self.plane.footprint()} == set(spaces)
        assert len(self.plane.counters()) == sum(len(self.wanted.get(network, {})) for network in spaces.values())

    def held(self, netns: str) -> dict[str, Service]:
        return self.wanted.get(netns.rpartition(".")[2], {})

    def restored(self, network: str) -> None:
        """A change of its services begins with what is wanted, at each site of the network."""
        self.world.damaged -= {netns for netns in self.world.programmed if netns.endswith(f".{network}")}

    def addresses(self, network: str, but: Sequence[str] = ()) -> set[str]:
        """The addresses of a network that are taken, but for those of the services named."""
        if not any(where[0] == network for where in self.segments):
            return set()
        found = {f"{SUBNETS[network]}.1"} | {
            each.address for each in self.endpoints.values() if each.network == network
        }
        found |= {each.address for each in self.world.attached.values() if each.network == network}
        return found | {each.vip for name, each in self.wanted.get(network, {}).items() if name not in but}

    def contradict(self, found: Sequence[Service]) -> bool:
        """True if services cannot be at the same time as what there is, or as each other."""
        for service in found:
            beside = [each for each in found if each.network == service.network and each is not service]
            taken = self.addresses(service.network, [each.name for each in (service, *beside)])
            known = any(where[0] == service.network for where in self.segments)
            twice = any(service.name == each.name or service.vip == each.vip for each in beside)
            if not known or twice or service.vip in taken:
                return True
        return False

    @contextmanager
    def change(self, refused: tuple[int, bool], *, wrong: bool = False) -> Iterator[list[bool]]:
        """A change is all done, or is refused and nothing is. A wrong one is always refused."""
        before, done, refusal = self.world.state(), list[bool](), None
        self.world.refused_at, self.world.half = refused
        self.world.refused = False
        try:
            yield done
        except (Usage, KernelRefused) as error:
            refusal = error
        self.world.refused_at = 0
        self.refusal: Exception | None = refusal
        if refusal is None:
            done.append(True)
        else:
            assert self.world.state() == before
            assert not (isinstance(refusal, KernelRefused) and refusal.fix)  # the way back was not refused
        assert wrong or not isinstance(refusal, Usage), refusal
        assert refusal or not wrong


def lived() -> Life:
    """A plane with a network, two containers and two services."""
    life, never = Life(), (0, False)
    life.begin()
    life.add_segment(network="a", node="n1", refused=never)
    life.add_endpoint(network="a", node="n1", name="c1", host=2, refused=never)
    life.add_endpoint(network="a", node="n1", name="c2", host=3, refused=never)
    life.apply(asked=[("a", "s1", 4, 2), ("a", "s2", 5, 1)], refused=never)
    return life


CHANGES: dict[str, Callable[[Life, tuple[int, bool]], None]] = {
    "add_segment": lambda life, refused: life.add_segment(network="a", node="n2", refused=refused),
    "add_endpoint": lambda life, refused: life.add_endpoint(network="a", node="n1", name="c3", host=6, refused=refused),
    "remove_endpoint": lambda life, refused: life.remove_endpoint(network="a", name="c1", refused=refused),
    # one that moves to another VIP, one with other backends, and one that is new and takes the VIP that is left
    "apply": lambda life, refused: life.apply(
        asked=[("a", "s1", 7, 2), ("a", "s2", 5, 2), ("a", "s3", 4, 1)], refused=refused
    ),
    "remove": lambda life, refused: life.remove(asked=[("a", "s1", 4, 0), ("a", "s2", 5, 0)], refused=refused),
    "close": lambda life, refused: life.close(refused=refused),
}


@pytest.mark.parametrize("half", [False, True], ids=["at once", "half-way"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_refused_at_any_step_can_be_made_later(name: str, half: bool) -> None:
    change = CHANGES[name]
    refused = 0
    while True:
        life = lived()
        change(life, (refused + 1, half))
        life.what_is_programmed_is_what_is_wanted()
        if not life.refusal:
            break
        refused += 1
        change(life, (0, False))
        assert not life.refusal
        life.what_is_programmed_is_what_is_wanted()
    assert refused > 2, "it was refused at each of its steps"


def test_a_network_that_was_refused_may_come_with_another_subnet() -> None:
    life = lived()
    life.add_segment(network="b", node="n1", refused=(2, False))
    assert life.refusal
    life.plane.add_segment(Segment("n1", "b", "10.0.1.0/25", "n1", "n1.b"))


@pytest.mark.parametrize("first", range(13))
def test_every_site_is_restored_whichever_step_is_refused(first: int) -> None:
    life = lived()
    for number in range(3):
        life.foreign_hands(number=number, also_ready=True)
    life.resync(number=0, first=first)
    life.what_is_programmed_is_what_is_wanted()


def test_of_several_sites_that_cannot_be_restored_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    life = lived()
    life.foreign_hands(number=0, also_ready=True)

    def refuse(self: Anywhere, endpoint: Endpoint, segment: Segment) -> list[Site]:
        raise KernelRefused(f"no {endpoint.name}")

    monkeypatch.setattr(Anywhere, "open_endpoint", refuse)
    with pytest.raises(KernelRefused, match=r"^no c1$"):
        life.plane.resync()
    life.world.damaged.clear()
    life.what_is_programmed_is_what_is_wanted()


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=25)


def test_a_refusal_says_what_and_where() -> None:
    world = World()
    plane = PlacedPlane("written-anywhere", Anywhere(world), Written(world), Lab(world))
    segment = Segment("n1", "a", "10.0.0.0/24", "n1", "n1.a")
    endpoint = Endpoint("c1", "a", "n1", "c1.a", "eth0", "10.0.0.3", "", "", "")
    with pytest.raises(Usage, match=r"^written-anywhere: c1 comes before its network, a$"):
        plane.add_endpoint(endpoint)
    plane.add_segment(segment)
    plane.add_endpoint(endpoint)
    with pytest.raises(Usage, match=r"^written-anywhere: a is on n1 already$"):
        plane.add_segment(segment)
    with pytest.raises(Usage, match=r"^written-anywhere: c1 is on a already$"):
        plane.add_endpoint(endpoint)
    other = Endpoint("c2", "a", "n1", "c2.a", "eth0", "10.0.0.3", "", "", "")
    with pytest.raises(Usage, match=r"c2: 10\.0\.0\.3 is taken: it is the address of c1"):
        plane.add_endpoint(other)
    with pytest.raises(Usage, match=r"10\.0\.0\.100 is taken: it is the address of lb-n1"):
        plane.apply([Service("s1", "a", "10.0.0.100")])
