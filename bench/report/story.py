"""The story of a flow as text: a line for each rewrite, and with `everything` one for each sighting."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from bench.analysis.story import first_difference
from bench.documents.tracing import Followed, Hop, Story, Way, WayEnd
from dataplanes.follower import Sighting

_PLACE = 44
"""The width of the column with namespace, device and hook."""
_RULE = 100
"""The most letters of a rule. JSON has all."""


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
    if flow.counted:
        yield "on the left: the instructions that were executed up to there, without those of following"
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


def table(stories: Sequence[Story]) -> Iterator[str]:
    """Yield the lines of a table: a column for each plane, and a row for each step.

    `!` marks where a plane parts from the first one.
    """
    rows = [("", "", [[each.flow.dataplane] for each in stories]), *_rows(stories)]
    widths = [max(len(text) for _, _, cells in rows for text in cells[n]) for n in range(len(stories))]
    for mark, direction, cells in rows:
        for number, texts in enumerate(zip_longest(*cells, fillvalue="")):
            begin = f"{mark:2}{direction:9}" if number == 0 else " " * 11
            columns = (f"{text:{width}}" for text, width in zip(texts, widths, strict=True))
            yield (begin + "   ".join(columns)).rstrip()


def _rows(stories: Sequence[Story]) -> Iterator[tuple[str, str, list[list[str]]]]:
    """Yield the mark, the direction and the lines of each plane's cell."""
    partings = [first_difference(stories[0], each) for each in stories[1:]]
    marked = [step for parting in filter(None, partings) for step in parting[1:]]
    for direction in ("request", "reply"):
        ways = [next((way for way in each.ways if way.direction == direction), None) for each in stories]
        steps = [[step for step in way.steps if step.kind != "carried"] if way else [] for way in ways]
        name = direction
        for row in zip_longest(*steps):
            parted = any(step is each for step in row if step for each in marked)
            yield "!" if parted else "", name, [_cell(step) for step in row]
            name = ""
        yield "", name, [[_end(way.end)] if way else ["-"] for way in ways]


def _end(end: WayEnd) -> str:
    return f"{place(end.namespace, end.device, '')}: {ended(end)}"


def _cell(step: Hop | None) -> list[str]:
    return (
        [
            place(step.namespace, step.device, step.hook),
            *(f"  {each}" for each in changes(step)),
        ]
        if step
        else ["-"]
    )


def heading(way: Way) -> str:
    """Return the direction of a way, the packet, and its addresses when it was sent."""
    return f"{way.direction}: {way.what}, {way.source} > {way.destination}"


def _way(way: Way) -> Iterator[str]:
    more = f"; {way.others} more packet{'s' if way.others > 1 else ''} went the same way" if way.others else ""
    sent = f"; sent after {way.instructions:,} instructions" if way.instructions else ""
    yield heading(way) + sent + more
    for step in way.steps:
        yield f"  {_cost(step.instructions)}{_line(step)}"
        yield from (f"      by the rule: {_shortened(rule)}" for rule in step.rules)
        yield from (f"      by the element: {element}" for element in step.elements)
    end = way.end
    where = place(end.namespace, end.device, end.hook)
    yield f"  {_cost(end.instructions)}{where:{_PLACE}}  {ended(end, tracked=True)}"


def _cost(instructions: int | None) -> str:
    return "" if instructions is None else f"{instructions:>9,}  "


def _shortened(rule: str) -> str:
    """Return a rule in one line. Its end tells what it does, and its handle."""
    return rule if len(rule) <= _RULE else f"{rule[: _RULE // 3]} ... {rule[-_RULE * 2 // 3 :]}"


def _line(step: Hop) -> str:
    where = place(step.namespace, step.device, step.hook)
    return f"{where:{_PLACE}}  {', '.join(changes(step))}  {_brackets(step.by, step.tracked)}"


def _brackets(by: str, tracked: str) -> str:
    """Return what has decided, and what connection tracking called the packet."""
    told = "; ".join(filter(None, (by, tracked and f"ct {tracked}")))
    return f"[{told}]" if told else ""


def place(namespace: str, device: str, hook: str) -> str:
    """Return a place in words."""
    return " ".join(filter(None, (namespace, device, hook)))


def changes(step: Hop) -> list[str]:
    """Return what happens to a packet at a step: a text for each of its addresses that is rewritten."""
    if step.kind == "carried":
        return ["carried to another node"]
    if step.kind == "divided":
        return ["divided into fragments"]
    if step.kind == "joined":
        return ["put together from its fragments"]
    if step.kind == "sent on":
        return [f"sent on as it is, to {step.after[1]}"]
    ends = zip(("from", "to"), step.before, step.after, strict=True)
    return [f"{word} {before} -> {after}" for word, before, after in ends if before != after]


def ended(end: WayEnd, *, tracked: bool = False) -> str:
    """Return how a way ends, and if asked for what connection tracking called the packet there."""
    brackets = _brackets(end.by, end.tracked if tracked else "")
    if end.kind == "arrived":
        return f"arrived  {brackets}".rstrip()
    if end.kind == "joined":
        return "joined to the datagram's other fragments"
    if end.kind == "dropped":
        return f"DROPPED: {end.reason} in {end.function}  {brackets}".rstrip()
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
        (each.rule and f"rule {each.rule}") or "",
        each.carrier and f"in VXLAN {each.carrier}",
        each.tracked,
        (each.mark and f"mark {each.mark:#x}") or "",
        each.reason and f"dropped: {each.reason} in {each.function}",
    )
    return ", ".join(filter(None, told))
