"""The drawing of a story: a lane for each namespace, and the way of each packet through the lanes, from top to bottom.

An arrow goes from namespace to namespace. Where addresses are rewritten, a label tells the place, the addresses before
and after, and what rewrote them. Requests are solid and replies dashed, so that they can be told apart in grey, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import islice, pairwise

from bench.analysis.story import first_difference
from bench.documents.tracing import Hop, Namespace, Passage, Story, Way, WayEnd
from bench.report import story as words
from bench.report import svg
from bench.report.sheet import LINE, MARGIN, PAD, STYLE, Pen, Sheet, Text, width
from dataplanes.texts import line

_LANE, _NODES = 110.0, 24.0
"""The least distance of two lanes, and what two nodes are apart besides."""
_LEAST = 680.0
"""The least width of a drawing."""
_NAME = 14  # letters in a line of a namespace's name
_KINDS = {"lb": "load balancer"}
_NEAR, _FAR = ("overlay", "lb", "host", "container"), ("host", "lb", "overlay", "container")
"""The order of lanes on the client's node, and on others."""
_MARKS = {"arrived": "circle", "joined": "square"}
"""The end of a way -> its mark; a cross for others."""
_CALLS = {
    "inet4_connect": "connect()",
    "udp4_sendmsg": "sendmsg()",
    "udp4_recvmsg": "recvmsg()",
    "inet4_getpeername": "getpeername()",
}
"""Hook of a cgroup -> the system call to which it belongs."""


def draw(stories: Sequence[Story], observed: str = "") -> str:
    """Return the drawing of one story, or of several below each other with where each differs from the first one.

    `observed` tells of the kernel.
    """
    sheet = Sheet(_LEAST)
    first, *others = stories
    parting = [step for each in others for step in (first_difference(first, each) or ())[1:]]
    for story in stories:
        _panel(sheet, story, parting)
    for each in others:
        for said in words.difference(first, each):
            sheet.paragraph(said)
    sheet.paragraph(observed, "small")
    title = "; ".join(words.title(each.flow) for each in stories)
    told = "\n".join(said for each in stories for said in words.lines(each))
    across, down = round(sheet.right), round(sheet.bottom + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc"'
        f' width="{across}" height="{down}" viewBox="0 0 {across} {down}">\n'
        f'<title id="title">{_escaped(title)}</title>\n<desc id="desc">{_escaped(told)}</desc>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(sheet.parts) + "\n</svg>\n"
    )


def _escaped(text: str) -> str:
    return "\n".join(escape(line(each), quote=False) for each in text.split("\n"))


def _panel(sheet: Sheet, story: Story, parting: Sequence[Hop | None]) -> None:
    """Draw a story: its title, its lanes with their heads, its ways, and what the client got."""
    spaces = _spaces(story)
    lanes = _lanes(story, spaces)
    sheet.right = max([sheet.right, *(x + _half(lanes) + MARGIN for x in lanes.values())])
    sheet.paragraph(words.title(story.flow), "title")
    sheet.bottom += 6
    top, ground = sheet.bottom, len(sheet.parts)
    _heads(sheet, spaces, lanes)
    below = sheet.bottom + 4
    for way in story.ways:
        sheet.bottom += 10
        _way(sheet, way, lanes, parting)
    sheet.bottom += 10
    sheet.parts[ground:ground] = [
        *_nodes(spaces, lanes, top, sheet.bottom),
        *(svg.rule(x, below, 0, sheet.bottom - below - 4, "lane") for x in lanes.values()),
    ]
    sheet.bottom += 6
    for said in words.result(story):
        sheet.paragraph(said, "strong")
    sheet.bottom += 10


def _spaces(story: Story) -> list[Namespace]:
    """Return the namespaces that were passed: from the client's, node by node, to the backend's."""
    known = {each.name: each for each in story.flow.namespaces}
    visited = dict.fromkeys(passage.namespace for way in story.ways for passage in way.passages)
    spaces = [known.get(name, Namespace(name, "", "")) for name in visited]
    spaces.sort(key=lambda each: each.name != story.flow.origin)
    nodes = list(dict.fromkeys(each.node for each in spaces))

    def order(space: Namespace) -> tuple[int, bool, int]:
        node = nodes.index(space.node)
        kinds = _FAR if node else _NEAR
        return node, space.name != story.flow.origin, kinds.index(space.kind) if space.kind in kinds else 0

    return sorted(spaces, key=order)


def _lanes(story: Story, spaces: Sequence[Namespace]) -> dict[str, float]:
    """Return the middle of each namespace's lane, so far apart that the names of namespaces and devices have room."""
    names, nodes = [each.name for each in spaces], [each.node for each in spaces]
    apart = [_LANE, *(width(part) + PAD for name in names for part in _broken(name))]
    apart += [(width(_of_node(node), "strong") + PAD) / nodes.count(node) for node in nodes]
    for way in story.ways:
        for last, passage in pairwise(way.passages):
            lanes = abs(names.index(last.namespace) - names.index(passage.namespace))
            apart.append((width(_crossing(last, passage), "small") + 4 * PAD) / lanes)
    between = [sum(a != b for a, b in pairwise(nodes[: number + 1])) for number in range(len(nodes))]
    return {name: MARGIN + max(apart) * (n + 0.5) + _NODES * between[n] for n, name in enumerate(names)}


def _half(lanes: dict[str, float]) -> float:
    """Return half of the distance of two lanes: so far is the first one from the margin."""
    return min(lanes.values(), default=_LANE) - MARGIN


def _heads(sheet: Sheet, spaces: Sequence[Namespace], lanes: dict[str, float]) -> None:
    """Write the nodes' names, and below them the kind and the name of each namespace."""
    top = lowest = sheet.bottom
    for node in dict.fromkeys(each.node for each in spaces):
        own = [lanes[each.name] for each in spaces if each.node == node]
        sheet.bottom = top
        sheet.write((own[0] + own[-1]) / 2, [(_of_node(node), "strong")], anchor="middle")
    for space in spaces:
        sheet.bottom = top + LINE
        said = [(_KINDS.get(space.kind, space.kind), "small"), *((part, "") for part in _broken(space.name))]
        sheet.write(lanes[space.name], said, anchor="middle")
        lowest = max(lowest, sheet.bottom)
    sheet.bottom = lowest


def _of_node(node: str) -> str:
    return f"node {node}" if node else ""


def _broken(name: str) -> list[str]:
    """Return a namespace's name in lines, which end after a dot, or else a hyphen, if there is one."""
    lines: list[str] = []
    rest = name
    while len(rest) > _NAME:
        cut = rest.rfind(".", 0, _NAME) + 1 or rest.rfind("-", 0, _NAME) + 1 or _NAME
        lines, rest = [*lines, rest[:cut]], rest[cut:]
    return [*lines, rest]


def _nodes(spaces: Sequence[Namespace], lanes: dict[str, float], top: float, bottom: float) -> Iterator[str]:
    """Yield a rectangle behind the lanes of each node."""
    half = _half(lanes)
    for node in dict.fromkeys(each.node for each in spaces if each.node):
        own = [lanes[each.name] for each in spaces if each.node == node]
        yield (
            f'<rect class="node" x="{own[0] - half:.1f}" y="{top:.1f}" width="{own[-1] - own[0] + 2 * half:.1f}"'
            f' height="{bottom - top:.1f}" rx="6"/>'
        )


def _way(sheet: Sheet, way: Way, lanes: dict[str, float], parting: Sequence[Hop | None]) -> None:
    """Draw the way of a packet."""
    begin = len(sheet.parts)
    heading = words.heading(way) + ("; later packets went the same way" if way.others else "")
    sheet.paragraph(heading, "strong", indent=PAD)
    steps, last = iter(way.steps), None
    pen = Pen(sheet, lanes[way.passages[0].namespace])
    for passage in way.passages:
        if last:
            pen.cross(lanes[passage.namespace], _crossing(last, passage))
        for step in islice(steps, passage.steps):
            first = any(step is each for each in parting)
            pen.label(list(_said(step, passage.namespace, first=first)), "" if step.kind == "carried" else "diamond")
        last = passage
    pen.label(list(_ended(way)), _MARKS.get(way.end.kind, "cross"))
    sheet.parts[begin:] = [svg.group([*pen.lines, *sheet.parts[begin:]], kind=way.direction)]


def _crossing(last: Passage, passage: Passage) -> str:
    """Return the devices by which a packet goes from a namespace to the next one."""
    return " → ".join(filter(None, (last.left, passage.entered)))


def _said(step: Hop, lane: str, *, first: bool) -> Iterator[Text]:
    """Yield the lines of a step's label."""
    call = _CALLS.get(step.hook, "")
    where = words.place(step.namespace if step.namespace != lane else "", step.device, call or step.hook)
    if first:
        yield "the first difference:", "small"
    if step.kind != "carried":
        yield where, "strong"
    for change in words.changes(step):
        yield change.replace("->", "→"), ""
    yield f"{step.by} ({step.hook})" if call else f"{step.by}{_handle(step)}", "small"
    if step.tracked:
        yield f"ct {step.tracked}", "small"
    yield from _after(step.instructions)


def _after(instructions: int | None) -> Iterator[Text]:
    if instructions is not None:
        yield f"after {instructions:,} instructions", "small"


def _handle(step: Hop) -> str:
    """Return the handle of the rule that has rewritten a packet, to stand in one line. Its text would be too wide."""
    _, found, handle = (step.rules or [""])[-1].rpartition("# handle ")
    return f", handle\u00a0{handle}" if found else ""


def _ended(way: Way) -> Iterator[Text]:
    """Yield the lines of the label at the end of a way."""
    end: WayEnd = way.end
    if end.kind == "arrived":
        rewritten = [step.after for step in way.steps if step.kind == "rewritten"]
        yield "arrived", "strong"
        yield " > ".join(rewritten[-1] if rewritten else [way.source, way.destination]), ""
        yield from _after(end.instructions)
        return
    lane = way.passages[-1].namespace
    yield words.place(end.namespace if end.namespace != lane else "", end.device, end.hook), "strong"
    yield words.ended(end), ""
    yield from _after(end.instructions)
