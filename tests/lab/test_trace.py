"""The story of a flow names each rewrite where the plane makes it.

`stories.toml` tells what is known of each plane: where it is placed, at which hook it works, and which addresses it
changes, of the request and of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from bench.analysis.story import story
from bench.documents import Event, Job
from bench.documents.tracing import Followed, Hop, Story, Tracing, Way
from bench.inside import asking, observe, tracing
from bench.report.story import lines
from dataplanes import catalog, follower
from dataplanes.follower import Follower
from dataplanes.kernel.btf import KernelTypes
from dataplanes.spending import Spending
from scenarios import checks, expectations
from scenarios.expectations import Expectation
from scenarios.lab import Lab
from tests.lab.conftest import CLIENT, running

Known = dict[str, dict[str, list[str]]]
"""Plane -> flow -> the rewrites, and last the answer."""
KNOWN = msgspec.toml.decode(Path(__file__).with_name("stories.toml").read_bytes(), type=Known)
FLOWS = {"remote": (CLIENT, "lone"), "local": (CLIENT, "both"), "hairpin": ("lone.1", "lone")}
SERVED, TURN = "services[10.0.0.8] = 1 turn", "turns[10.0.0.8, 0] = 10.0.0.9"
CONNECTION = "ends[{} 10.0.0.7:40001 > 10.0.0.9:80] = flows[*], whose VIP is 10.0.0.8"
OWN = "ends[{} 10.0.0.9:40001 > 10.0.0.8:80] = flows[*], whose VIP is 10.0.0.8"
AT_VETH = {"remote": CONNECTION, "hairpin": OWN}
AT_SOCKET = dict.fromkeys(AT_VETH, "vips[its socket, 10.0.0.9:80] = 10.0.0.8")
ELEMENTS = {"ebpf-tc": AT_VETH, "ebpf-redirect": AT_VETH, "ebpf-socket": AT_SOCKET}
"""Plane -> flow -> the element that explains the rewrite of the reply. That of a request is a turn of the service."""
PROGRAMS = {
    "ebpf-tc": ["BPF program from_container", "BPF program to_container"],
    "ebpf-redirect": ["BPF program from_container", "BPF program from_wire"],
    "ebpf-socket": ["BPF program of the cgroup, on_connect4", "BPF program of the cgroup, on_getpeername4"],
}
"""Plane -> the programs that rewrite the request and the reply of a remote flow by TCP."""
STATES = {
    "nft-lb": ["new", "new", "new", "established reply", "established reply", "established reply"],
    "ipvs-lb": ["new", "new", "new", "established reply", "established reply", "established reply"],
    "nft-bridge": ["", "new", "", "established reply"],
}
"""Plane -> what connection tracking calls a remote flow's first packets at each rewrite and where they arrive."""
COMMAND = "for n in 1 2; do exec 3<>/dev/tcp/lone/80 && printf w >&3 && head -c 1 <&3 || exit; done"
"""Two connections, by the service's name."""
pytestmark = pytest.mark.trace


@pytest.fixture(scope="module")
def types() -> KernelTypes:
    return follower.of_this_kernel()


def followed(lab: Lab, origin: str, service: str, protocol: str, follower: Follower) -> Story:
    asked = msgspec.convert({"origin": origin, "service": service, "protocol": protocol}, Tracing)
    return story(tracing.follow(lab, asked, follower))


def told(found: Story) -> Iterator[str]:
    """Yield a line for each rewrite of the first packet of a direction, and one for the answer."""
    for direction in ("request", "reply"):
        way = next((each for each in found.ways if each.direction == direction), None)
        for hop in way.steps if way else ():
            place = " ".join(filter(None, (direction, hop.namespace, hop.device, hop.hook)))
            ends = [f"{a} -> {b}" for a, b in zip(hop.before, hop.after, strict=True) if a != b]
            if hop.kind != "carried":
                yield chosen(f"{place}: {', '.join(ends) or hop.kind}")
    yield chosen(f"{found.flow.answer}, from {found.flow.source}")


def firsts(found: Story) -> list[Way]:
    """Return the way of the first packet in each direction."""
    return [next(way for way in found.ways if way.direction == each) for each in ("request", "reply")]


def rewrites(found: Story) -> list[Hop]:
    return [step for way in firsts(found) for step in way.steps if step.kind == "rewritten"]


def states(found: Story) -> Iterator[str]:
    """Yield what connection tracking calls the first packets at each rewrite, and where they arrive."""
    for way in firsts(found):
        yield from (step.tracked for step in way.steps if step.kind == "rewritten")
        yield way.end.tracked


def demand_explained(found: Story, reply: str) -> None:
    """Demand that the turn and the connection that have decided are told, and nothing else."""
    told = [[re.sub(r"flows\[\d+\]", "flows[*]", each) for each in step.elements] for step in rewrites(found)]
    assert told == [[f"{SERVED}, {TURN}"], [reply]]


def chosen(line: str) -> str:
    """Return a line without the ports that a plane chooses at random."""
    return re.sub(r":(?!(80|40001)\b)\d+\b", ":*", line)


def unexplained(found: Story) -> list[str]:
    """Return the lines of rewrites by a ruleset of which no rule is told."""
    hops = [hop for way in found.ways for hop in way.steps if hop.by.startswith(("nft ", "iptables "))]
    return [str(hop) for hop in hops if not hop.rules or hop.rules[-1].startswith("number")]


def requests(lines_told: Iterable[str]) -> list[str]:
    """Return the lines of the request, with any port of the client."""
    return [re.sub(r":40001\b", ":*", line) for line in lines_told if line.startswith("request")]


@pytest.mark.parametrize("plane", KNOWN)
def test_each_rewrite_is_told_where_the_plane_makes_it(plane: str, types: KernelTypes) -> None:
    (selection,) = catalog.select(plane)
    known, found = KNOWN[plane], {}
    explained = ELEMENTS.get(plane, {})
    with running(plane, "matrix") as lab, tracing.attached(lab, types) as attached:
        for protocol in catalog.protocols(selection)[:2]:
            for name, (origin, service) in FLOWS.items():
                told_of = followed(lab, origin, service, protocol, attached)
                assert told_of.flow.lost == 0
                assert {way.direction for way in told_of.ways} == {"request", "reply"}
                assert unexplained(told_of) == []
                line = f"{name} {protocol}"
                found[line] = list(told(told_of))
                if name in explained:
                    demand_explained(told_of, explained[name].format(protocol))
                if name == "remote" and plane in STATES:
                    assert list(states(told_of)) == STATES[plane]
                if line == "remote tcp" and plane in PROGRAMS:
                    assert [step.by for step in rewrites(told_of)] == PROGRAMS[plane]
                if found[line] != (known.get(line) or known[name]):
                    print("\n".join(lines(told_of, everything=True)))  # pytest shows it, as the test fails
        asked = Tracing(CLIENT, "lone", command=["bash", "-c", COMMAND])
        of_command = story(tracing.follow(lab, asked, attached))
        assert attached.spending() == Spending()  # nobody has asked for what following takes
    assert (of_command.flow.answer, of_command.flow.lost) == ("exit code 0", 0)
    assert requests(told(of_command)) == requests(known.get("remote tcp") or known["remote"])
    assert {way.direction for way in of_command.ways} == {"request", "reply"}
    assert found == {name: known.get(name) or known[name.partition(" ")[0]] for name in found}


@pytest.mark.parametrize("plane", ["nft-lb", "ipvs-container", "nft-bridge"])
def test_associations_fragments_and_containers_that_come_later_are_followed(plane: str, types: KernelTypes) -> None:
    rewrites = [re.sub(r":\d+\b", "", line) for line in KNOWN[plane].get("remote udp") or KNOWN[plane]["remote"]][:-1]
    asking.autoload("sctp")
    with running(plane, "matrix") as lab, tracing.attached(lab, types) as attached:
        association = followed(lab, CLIENT, "lone", "sctp", attached)
        asked = Tracing(CLIENT, "lone", "udp", size=4000)
        large = story(tracing.follow(lab, asked, attached))
        lab.scale("my-busybox", 2)
        later = followed(lab, "my-busybox.2", "lone", "tcp", attached)
    for each in (association, large, later):
        print("\n".join(lines(each)))  # pytest shows it if the test fails
        assert each.flow.answered
    assert association.ways[0].what == "INIT"
    for each in (association, large):
        found = [line for line in told(each) if not line.endswith(("divided", "joined"))][:-1]
        assert [re.sub(r":(\d+|\*)", "", line) for line in found] == rewrites
    assert {way.end.kind for way in association.ways} == {"arrived"}
    assert "divided" in [step.kind for step in large.ways[0].steps]
    parts = [way for way in large.ways if way.what.startswith("fragment")]
    assert (parts[0].direction, parts[0].what, parts[0].others) == ("request", "fragment from byte 1,424", 1)
    assert {way.end.kind for way in parts} == {"joined"}
    assert later.ways[0].passages[0].namespace == "my-busybox.2"


@pytest.mark.parametrize("plane", ["nft-lb", "ipvs-container"])
def test_a_cell_that_is_not_as_expected_leaves_the_story_of_its_packets(
    plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expectations, "expected", lambda *of: Expectation([], [], "planted", "fail"))
    job, events = Job("matrix", selections=catalog.select(plane), checks=["reach.other-node"]), list[Event]()
    job.evidence = True
    observe.matrix(job, "wall", events.append, lambda lab: None)
    (evidence,) = [event.data for event in events if event.kind == "evidence"]
    found = story(msgspec.convert(evidence["flow"], Followed))
    print("\n".join(lines(found)))  # pytest shows it if the test fails
    assert evidence["packets"]  # the captures, beside it; each of their taps frees clones of the packets
    assert {way.end.kind for way in found.ways} == {"arrived"}
    places = [" ".join(filter(None, (step.namespace, step.device, step.hook))) for step in rewrites(found)]
    assert places == [line.partition(": ")[0].partition(" ")[2] for line in KNOWN[plane]["remote"][:-1]]
    assert list(lines(found))[-1].startswith("reach.other-node ended with pass: ")


@pytest.mark.parametrize("plane", ["nft-lb", "nft-bridge", "ebpf-tc"])
def test_the_packets_of_each_check_are_followed_and_no_outcome_changes(plane: str) -> None:
    wanted = [name for name, each in checks.CHECKS.items() if (each.theme, each.scenario) == ("reach", "matrix")]
    outcomes: list[dict[str, str]] = []
    flows: dict[str, Followed] = {}

    def tell(event: Event) -> None:
        if event.kind == "cell":
            outcomes[-1][event.data["check"]] = event.data["outcome"]
        elif event.kind == "flow":
            flows[event.data["check"]] = msgspec.convert(event.data["flow"], Followed)

    for traced in (False, True):
        outcomes.append({})
        job = Job("matrix", selections=catalog.select(plane), checks=wanted)
        job.traced = traced
        observe.matrix(job, "wall", tell, lambda lab: None)
    assert outcomes[0] == outcomes[1]
    assert flows.keys() == {name for name, outcome in outcomes[1].items() if outcome != "skip"}
    stories = {name: story(flow) for name, flow in flows.items()}
    print(*("\n".join(lines(each)) for each in stories.values()), sep="\n\n")  # pytest shows it if the test fails
    assert {"request", "reply"} <= {way.direction for way in stories["reach.other-node"].ways}
    assert "reach.other-node ended with pass: " in list(lines(stories["reach.other-node"]))[-1]
