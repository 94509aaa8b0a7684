"""What a flow's way costs, in instructions, is told without what following it has cost."""

from __future__ import annotations

from msgspec.structs import replace

from bench.analysis.story import story
from bench.documents.tracing import Followed
from bench.report.story import difference, lines
from tests.unit.test_story import BACKEND, CLIENT, followed, seen


def counted(*spent: int) -> Followed:
    """Return a flow that is seen every 1,000 instructions, of which the follower takes some."""
    flow = followed(
        seen("nf_hook_slow", hook="PREROUTING"),
        seen("nf_nat_manip_pkt", tracked="new"),
        seen("tcp_v4_rcv", destination=BACKEND),
        seen("nf_hook_slow", BACKEND, CLIENT, packet=2, hook="OUTPUT"),
        seen("tcp_v4_rcv", BACKEND, CLIENT, packet=2),
    )
    timed = [
        replace(each, time=1_000 * n, spent=own)
        for n, (each, own) in enumerate(zip(flow.sightings, spent, strict=True), 7)
    ]
    return replace(flow, sightings=timed, counted=True)


def test_a_line_tells_the_instructions_up_to_there_without_those_of_the_follower() -> None:
    told = story(counted(50, 650, 750, 1_750, 2_000))
    request, reply = told.ways
    assert [request.instructions, *(hop.instructions for hop in request.steps)] == [0, 400]
    assert (request.end.instructions, reply.instructions, reply.end.instructions) == (1_300, 1_300, 2_050)
    said = list(lines(told))
    assert said[3].startswith("        400  ns eth0 PREROUTING ")
    assert said[4].startswith("      1,300  ns eth0 ")
    assert said[6].endswith("; sent after 1,300 instructions")
    assert "without those of following" in said[-2]


def test_by_another_clock_no_instructions_are_told() -> None:
    told = story(replace(counted(50, 650, 750, 1_750, 2_000), counted=False))
    assert {way.instructions for way in told.ways} == {way.end.instructions for way in told.ways} == {None}
    assert {hop.instructions for way in told.ways for hop in way.steps} == {None}
    assert "instructions" not in "\n".join(lines(told))


def test_what_a_way_costs_makes_no_other_way_of_it() -> None:
    flow = counted(0, 100, 200, 300, 400)
    again = [replace(each, time=each.time + 9_000, packet=3, copy=3) for each in flow.sightings[:3]]
    first, other = story(replace(flow, sightings=[*flow.sightings, *again])), story(flow)
    assert [way.others for way in first.ways] == [1, 0]
    later = [replace(each, spent=each.spent * 2) for each in flow.sightings]
    assert list(difference(other, story(replace(flow, sightings=later)))) == [
        "p and p rewrite the same at the same places"
    ]
