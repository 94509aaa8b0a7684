"""The picture that decides: what a connection costs on each plane against the semantics that are lost there.

A plane is a point with its name. Its placement is the colour, and its mechanism the shape; a hollow point lacks a core
semantic. Lines are at the reference, `direct`, and at the limit, `direct-short`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from bench.documents import Interval
from bench.report import looks, svg
from bench.report.digits import number
from bench.report.labels import Rectangle, beside
from bench.report.model import Report, cost
from bench.report.places import standing
from bench.report.questions import place
from bench.report.scales import Scale, around, written
from bench.report.short import short
from bench.report.words import ENGLISH, Words
from dataplanes.selection import DIRECT, SHORT, balances


class Placing(Struct, frozen=True):
    """A plane in the picture: the cost of a connection as a ratio to the reference's, and the semantics lost."""

    plane: str
    paid: Interval
    core: int
    extended: int
    strong: bool  # it is in the table of the short answer

    @property
    def lost(self) -> int:
        """The number of lost semantics that traffic depends on."""
        return self.core + self.extended


class Size(Struct, frozen=True):
    """The size of the picture, and whether every point has its name or only those that decide."""

    across: float
    down: float
    every: bool


WIDE, NARROW = Size(1120, 470, True), Size(370, 430, False)
_LEFT, _RIGHT, _BOTTOM = 46, 10, 36


class Facts(Struct, frozen=True):
    """What the picture shows: the planes, those that decide first, and the costs of the reference and the limit."""

    points: list[Placing]
    lines: dict[str, float]


def facts(report: Report) -> Facts | None:
    """Return what there is to show, or None if fewer than two planes have both a cost and observed semantics."""
    told = short(report)
    deciding = {row[1] for row in told.rows} if told else set()
    found = []
    for plane in filter(balances, report.planes()):
        held, ratio = standing(report, plane), paid(report, plane)
        if held and ratio:
            lost = {level: len(checks) for level, checks in held.lost.items()}
            found.append(Placing(plane, ratio, lost["core"], lost["extended"], plane in deciding))
    if len(found) < 2:
        return None
    found.sort(key=lambda each: (not each.strong, each.lost, each.paid.value))
    return Facts(found, {name: ratio.value for name in (DIRECT, SHORT) if (ratio := paid(report, name))})


def paid(report: Report, plane: str) -> Interval | None:
    """Return the cost of a connection as a ratio to the reference's, from one run, or None."""
    if found := report.relative(plane, DIRECT):
        return found
    rows = report.rows("crr")
    if plane not in rows or DIRECT not in rows or rows[plane][1] != rows[DIRECT][1]:
        return None
    here, there = cost(rows[plane][0]), cost(rows[DIRECT][0])
    return Interval(here.value / there.value) if here and there and there.value else None


def title(say: Words = ENGLISH) -> str:
    """Return the title of the picture."""
    return say("What a connection costs on each data plane, against the semantics that are lost there")


def draw(report: Report, shown: Facts, size: Size = WIDE, say: Words = ENGLISH) -> str:
    """Return the picture."""
    found, lines = shown.points, shown.lines
    legend, top = _legend(report, found, size, say)
    values = [*(each.paid.value for each in found), *lines.values()]
    ys = around(values, size.down - _BOTTOM, top)
    most = max(each.lost for each in found)
    xs = Scale(-0.6, max(most, 2) + (1.5 if size.every else 0.6), _LEFT, size.across - _RIGHT)
    parts = [*legend, *_axes(xs, ys, size, say), *_lines(lines, ys, size, say)]
    parts += [_point(report, each, xs, ys, say) for each in reversed(found)]
    named = [each for each in found if size.every or each.strong]
    told = [(xs.at(each.lost), ys.at(each.paid.value), each.plane) for each in named]
    others = [(xs.at(each.lost), ys.at(each.paid.value)) for each in found if each not in named]
    taken = [Rectangle(x - 5, y - 5, x + 5, y + 5) for x, y in others]
    taken += [Rectangle(size.across - 330, ys.at(value) - 14, size.across, ys.at(value)) for value in lines.values()]
    frame = Rectangle(_LEFT + 2, top - 4, size.across - 2, size.down - _BOTTOM - 2)
    for each, label, (x, y, _) in zip(named, beside(told, frame, taken), told, strict=True):
        if label.led:
            parts.append(svg.rule(x, y, label.x - x, label.y - 4 - y, "lead"))
        kind = "strong" if each.strong and size.every else ""
        parts.append(svg.text(label.x, label.y, each.plane, anchor=label.anchor, kind=kind))
    return svg.chart(title(say), (size.across, size.down), parts, more="picture")


def _axes(xs: Scale, ys: Scale, size: Size, say: Words) -> Iterator[str]:
    bottom = size.down - _BOTTOM
    yield svg.polyline([(_LEFT, ys.end), (_LEFT, bottom), (size.across - _RIGHT, bottom)], "axis")
    for value in xs.ticks():
        yield svg.rule(xs.at(value), bottom, 0, 4, "axis")
        yield svg.text(xs.at(value), bottom + 15, written(value), anchor="middle")
    for value in ys.ticks():
        yield svg.rule(_LEFT, ys.at(value), size.across - _RIGHT - _LEFT, 0, "grid")
        yield svg.text(_LEFT - 6, ys.at(value) + 4, written(value), anchor="end")
    under = say("core and extended semantics lost against Docker's IPVS in every container: fewer are better")
    if not size.every:
        under = say("core and extended semantics lost: fewer are better")
    yield svg.text((_LEFT + size.across) / 2, size.down - 4, under, anchor="middle")
    beside_it = say("cost of a connection, direct = 1: less is better")
    yield svg.text(11, (ys.end + bottom) / 2, beside_it, anchor="middle", turn=True)


def _lines(lines: dict[str, float], ys: Scale, size: Size, say: Words) -> Iterator[str]:
    told = {
        DIRECT: ("ref", say("direct, without load balancer: the reference")),
        SHORT: ("limit", say("direct-short, past the bridge: the limit")),
    }
    for name, value in lines.items():
        kind, words = told[name]
        yield svg.rule(_LEFT, ys.at(value), size.across - _RIGHT - _LEFT, 0, kind)
        yield svg.text(size.across - _RIGHT, ys.at(value) - 4, words, anchor="end")


def _point(report: Report, point: Placing, xs: Scale, ys: Scale, say: Words) -> str:
    x, y = xs.at(point.lost), ys.at(point.paid.value)
    low, high = point.paid.low, point.paid.high
    radius = 5.0 if point.strong else 4.0
    wide = low is not None and high is not None and ys.at(low) - ys.at(high) > 2 * radius
    spread = [svg.rule(x, ys.at(low), 0, ys.at(high) - ys.at(low), "line")] if wide and low and high else []
    shape = looks.SHAPES.get(looks.mechanism(report, point.plane), "")
    drawn = svg.mark(shape, x, y, radius=radius, hollow=point.core > 0)
    kind = f"at-{looks.colour(report, point.plane)}"
    return svg.group([*spread, drawn], kind=kind, title=_told(report, point, say))


def _told(report: Report, point: Placing, say: Words) -> str:
    row, _ = report.rows("crr")[point.plane]
    here = cost(row)
    return say(
        "{plane}: {amount}{ratio} times that of direct; {core} core and {extended} extended semantics are lost",
        plane=point.plane,
        amount=say("{count} a connection, ", count=number(here.value)) if here else "",
        ratio=f"{point.paid.value:.3f}",
        core=point.core,
        extended=point.extended,
    )


def _legend(report: Report, found: Sequence[Placing], size: Size, say: Words) -> tuple[list[str], float]:
    """Return the legend in as many lines as it needs, and the height below it."""
    planes = [each.plane for each in found]
    entries = [
        (f"at-{key}", "circle", say(place(key)), False)
        for key in looks.COLOURS
        if any(looks.colour(report, plane) == key for plane in planes)
    ]
    entries += [
        ("at-other", looks.SHAPES[key], words, False)
        for key, words in looks.MECHANISMS.items()
        if any(looks.mechanism(report, plane) == key for plane in planes)
    ]
    if any(each.core for each in found):
        entries.append(("at-other", "circle", say("hollow: a core semantic is lost"), True))
    parts, x, y = [], 8.0, 12.0
    for kind, shape, words, hollow in entries:
        wide = 14 + svg.width(words) + 12
        if x + wide > size.across and x > 8:
            x, y = 8.0, y + 16
        parts.append(svg.group([svg.mark(shape, x + 4, y - 4, radius=4, hollow=hollow)], kind=kind))
        parts.append(svg.text(x + 14, y, words))
        x += wide
    return parts, y + 18


def standalone(report: Report, shown: Facts, say: Words = ENGLISH) -> str:
    """Return the picture as a file of its own, on a page that is light or dark as the reader's is."""
    light, dark = "--paper:#fff;color:#1a1a1a", "--paper:#161616;color:#e8e8e6"
    page = f"svg{{{light};background:var(--paper)}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    return draw(report, shown, WIDE, say).replace(">", f"><style>{page}{looks.style()}</style>", 1) + "\n"
