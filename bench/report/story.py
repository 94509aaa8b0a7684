"""The story of a flow as text: a line for each rewrite, and with `everything` one for each sighting."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from bench.analysis.story import first_difference
from bench.documents.tracing import Followed, Hop, Story, Way, WayEnd
from dataplanes.follower import Sighting

_PLACE = 44
"""The width of the column with namespace, device and hook."""


def lines(story: Story, *, everything: bool = False) -> Iterator[str]:
    """Yield the lines of a story."""
    flow = story.flow
    yield title(flow)
    for way in story.ways:
        yield ""
        yield from _way(way)
    if everything:
        yield ""
        yield from _sightings(flow)
    yield ""
    yield from result(story)


def title(flow: Followed) -> str:
    """Return who asks whom, and how."""
    runs = f" runs {shlex.join(flow.command)}, which" if flow.command else ""
    asks = f"{flow.origin} ({flow.address}){runs} asks {flow.service} ({flow.vip})"
    return f"{flow.dataplane}: {asks} by {flow.protocol.upper()}"


def result(story: Story) -> Iterator[str]:
    """Yield what the client got, what was lost of the trace, and the cause of a failure."""
    flow = story.flow
    if flow.lost:
        yield f"{flow.lost:,} sightings were lost: the kernel had no room for them, so the story may lack lines"
    if flow.command:
        yield f"{flow.command[0]} ended with {flow.answer}"
    else:
        yield f"{flow.origin} got " + (f"an answer from {flow.source}: {flow.answer}" if flow.answered else flow.answer)
    if story.cause:
        at = place(story.cause.namespace, story.cause.device, story.cause.hook)
        yield f"the cause is at {at}: {story.cause.why}"


def difference(one: Story, other: Story) -> Iterator[str]:
    """Yield the lines that tell where the ways of two planes part first."""
    found = first_difference(one, other)
    names = one.flow.dataplane, other.flow.dataplane
    if found is None:
        yield f"{names[0]} and {names[1]} rewrite the same at the same places"
        return
    direction, *steps = found
    yield f"the first difference is in the {direction}:"
    for name, step in zip(names, steps, strict=True):
        yield f"  {name}: {_line(step) if step else 'nothing more is rewritten'}"


def heading(way: Way) -> str:
    """Return the direction of a way, the packet, and its addresses when it was sent."""
    return f"{way.direction}: {way.what}, {way.source} > {way.destination}"


def _way(way: Way) -> Iterator[str]:
    more = f"; {way.others} more packet{'s' if way.others > 1 else ''} went the same way" if way.others else ""
    yield heading(way) + more
    for step in way.steps:
        yield f"  {_line(step)}"
    yield f"  {place(way.end.namespace, way.end.device, way.end.hook):{_PLACE}}  {ended(way.end)}"


def _line(step: Hop) -> str:
    return f"{place(step.namespace, step.device, step.hook):{_PLACE}}  {', '.join(changes(step))}  [{step.by}]"


def place(namespace: str, device: str, hook: str) -> str:
    """Return a place in words."""
    return " ".join(filter(None, (namespace, device, hook)))


def changes(step: Hop) -> list[str]:
    """Return what happens to a packet at a step: a text for each of its addresses that is rewritten."""
    if step.kind == "carried":
        return ["carried to another node"]
    if step.kind == "sent on":
        return [f"sent on as it is, to {step.after[1]}"]
    ends = zip(("from", "to"), step.before, step.after, strict=True)
    return [f"{word} {before} -> {after}" for word, before, after in ends if before != after]


def ended(end: WayEnd) -> str:
    """Return how a way ends."""
    if end.kind == "arrived":
        return "arrived"
    if end.kind == "dropped":
        return f"DROPPED: {end.reason} in {end.function}" + (f"  [{end.by}]" if end.by else "")
    return f"LOST: seen at {end.function} last"


def _sightings(flow: Followed) -> Iterator[str]:
    packets: dict[int, int] = {}
    for each in flow.sightings:
        number = packets.setdefault(each.packet, len(packets) + 1)
        yield f"  {number:3} {place(each.namespace, each.device, each.hook):{_PLACE}}  {_seen(each)}"


def _seen(each: Sighting) -> str:
    told: Sequence[str] = (
        f"{each.place}: {each.source} > {each.destination}",
        each.ruleset and f"ruleset {each.ruleset}",
        each.carrier and f"in VXLAN {each.carrier}",
        each.tracked,
        (each.mark and f"mark {each.mark:#x}") or "",
        each.reason and f"dropped: {each.reason} in {each.function}",
    )
    return ", ".join(filter(None, told))
