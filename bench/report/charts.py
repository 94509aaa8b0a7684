"""The charts of the report: figures of planes as dots, growth as lines, and costs as differences to the direct path.

Each is drawn as wide as a telephone, and stands beside others of its kind. Planes are in groups by placement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from bench.documents import Interval
from bench.documents.metrics import METRICS
from bench.documents.overview import Curve
from bench.documents.workloads import WORKLOADS
from bench.report import labels, looks, svg
from bench.report.digits import number, ratio
from bench.report.model import Report
from bench.report.questions import place
from bench.report.scales import Scale, around, written
from scenarios.axes import AXES

_WIDE = 420.0
_NAMES = 190.0
"""The width of the planes' names beside dots and bars."""
_ROW = 15.0
_FOOT = 34.0
_TOP = 6.0


def placements(report: Report, planes: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """Return planes by placement, each placement's sorted by value. Those without VIP come first."""
    grouped: dict[str, list[str]] = {key: [] for key in (looks.OTHER, *looks.COLOURS)}
    for plane in sorted(planes, key=lambda name: planes[name]):
        grouped[looks.colour(report, plane)].append(plane)
    return [(key, names) for key, names in grouped.items() if names]


def dots(
    report: Report, title: str, axis: str, rows: Mapping[str, Interval], lines: Mapping[str, float] | None = None
) -> str:
    """Return a chart with a dot and its interval per plane. `lines` are a class each, with the value it stands at."""
    marks = lines or {}
    ends = [end for each in rows.values() for end in (each.low, each.high, each.value) if end is not None]
    xs = around([*ends, *marks.values()], _NAMES, _WIDE - 48)
    groups = placements(report, {name: each.value for name, each in rows.items()})
    parts, y = [], _TOP
    for key, names in groups:
        drawn = [*_heading(key, y)]
        y += _ROW
        for name in names:
            drawn.append(_dot(report, name, rows[name], xs, y))
            y += _ROW
        parts.append(svg.group(drawn, kind=f"at-{key}"))
    under = [svg.rule(xs.at(value), _TOP, 0, y - _TOP, kind) for kind, value in marks.items()]
    return svg.chart(title, (_WIDE, y + _FOOT), [*_ruled(xs, _TOP, y, axis), *under, *parts])


def _heading(key: str, y: float) -> Iterator[str]:
    words = "no load balancer" if key == looks.OTHER else place(key)
    yield svg.text(2, y + 11, words, kind="strong")


def _dot(report: Report, name: str, found: Interval, xs: Scale, y: float) -> str:
    x, middle = xs.at(found.value), y + 7
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    shape = looks.SHAPES.get(looks.mechanism(report, name), "")
    value = f"{found.value:.3f}"
    return svg.group(
        [
            svg.text(_NAMES - 8, y + 11, name, anchor="end"),
            svg.rule(xs.at(low), middle, xs.at(high) - xs.at(low), 0, "line"),
            svg.mark(shape, x, middle, radius=3.6),
            svg.text(max(x, xs.at(high)) + 7, y + 11, value),
        ],
        title=f"{name}: {ratio(found)}",
    )


def _ruled(xs: Scale, top: float, bottom: float, axis: str) -> Iterator[str]:
    for value in xs.ticks():
        yield svg.rule(xs.at(value), top, 0, bottom - top, "grid")
        yield svg.text(xs.at(value), bottom + 13, written(value), anchor="middle")
    yield svg.text((xs.start + xs.end) / 2, bottom + 28, axis, anchor="middle")


# -- lines -------------------------------------------------------------------------------------------------------------

_HIGH = 250.0
_BESIDE = 46.0
_SAME = 1 / 16
"""Lines that are nearer to each other than this part of the chart's height are drawn as one band."""
_FEWEST = 3  # planes that make a band


def title(found: Curve) -> str:
    """Return the title of a curve."""
    return f"{WORKLOADS[found.workload].title}: {METRICS[found.metric].title} against {axis(found)}"


def axis(found: Curve) -> str:
    """Return the name of a curve's axis."""
    return AXES[found.axis][0].replace("{:,} ", "")


def lines(report: Report, found: Curve) -> str:
    """Return a chart with a line per plane, whose name is at its end, and a grey band for planes that do not differ."""
    values = [each.value for points in found.planes.values() for _, each in points]
    xs_of = sorted({x for points in found.planes.values() for x, _ in points})
    metric = METRICS[found.metric]
    logarithmic = min(values) > 0 and max(values) > 3 * min(values)
    draft = around(values, 1, 0, logarithmic=logarithmic)
    bands = alike({name: [(x, draft.at(each.value)) for x, each in points] for name, points in found.planes.items()})
    single = [name for name in found.planes if not any(name in band for band in bands)]
    named = len(single) + len(bands)
    high = max(_HIGH, svg.LINE * named + 10)
    ys = around(values, _TOP + high, _TOP + 14, logarithmic=logarithmic)
    longest = max([svg.width(name) for name in single] + [svg.width(_counted(band)) for band in bands])
    xs = Scale(
        xs_of[0], xs_of[-1], _BESIDE, max(_WIDE - longest - 24, 200.0), logarithmic=xs_of[-1] > 10 * max(xs_of[0], 1)
    )
    bottom = ys.start
    parts = [svg.text(2, _TOP + 4, metric.column(), kind="soft")]
    for tick in ys.ticks():
        parts.append(svg.rule(xs.start, ys.at(tick), xs.end - xs.start, 0, "grid"))
        parts.append(svg.text(xs.start - 5, ys.at(tick) + 4, _short(tick), anchor="end"))
    for tick in _labelled(xs, xs_of):
        parts.append(svg.rule(xs.at(tick), bottom, 0, 4, "axis"))
        parts.append(svg.text(xs.at(tick), bottom + 15, _short(tick), anchor="middle"))
    parts.append(svg.rule(xs.start, bottom, xs.end - xs.start, 0, "axis"))
    parts.append(svg.text((xs.start + xs.end) / 2, bottom + 30, axis(found), anchor="middle"))
    ends: list[tuple[float, float, str, str]] = []
    for band in bands:
        parts.append(_band(found, band, xs, ys))
        last = [found.planes[name][-1] for name in band]
        middle = sum(ys.at(each.value) for _, each in last) / len(last)
        ends.append((xs.at(max(x for x, _ in last)), middle, _counted(band), "at-other"))
    for name in single:
        points = found.planes[name]
        at = [(xs.at(x), ys.at(each.value)) for x, each in points]
        kind = f"at-{looks.colour(report, name)}"
        drawn = [svg.polyline(at, "line"), svg.dots(at, "points")]
        parts.append(svg.group(drawn, kind=kind, title=_told(name, points)))
        ends.append((*at[-1], name, kind))
    parts += _ends(ends, xs.end, _TOP + 10, bottom)
    return svg.chart(title(found), (_WIDE, bottom + 38), parts)


def alike(planes: Mapping[str, Sequence[tuple[int, float]]]) -> list[list[str]]:
    """Return the groups of planes whose lines are near each other everywhere, as parts of the height: 0 to 1.

    Lines have the same axis. They are taken from below to above; one joins a group if it is near every line in it.
    """
    groups: list[list[str]] = []
    for name in sorted(planes, key=lambda each: planes[each][-1][1]):
        here = dict(planes[name])
        for group in groups:
            others = [dict(planes[each]) for each in group]
            if all(here.keys() == each.keys() and max(abs(here[x] - each[x]) for x in here) < _SAME for each in others):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) >= _FEWEST]


def _counted(band: Sequence[str]) -> str:
    return f"{len(band)} planes alike"


def _band(found: Curve, band: Sequence[str], xs: Scale, ys: Scale) -> str:
    columns = zip(*(found.planes[name] for name in band), strict=True)
    edges = [(column[0][0], [each.value for _, each in column]) for column in columns]
    above = [(xs.at(x), ys.at(max(values)) - 1.5) for x, values in edges]
    below = [(xs.at(x), ys.at(min(values)) + 1.5) for x, values in reversed(edges)]
    told = "; ".join(f"{x:,}: {number(min(values))} to {number(max(values))}" for x, values in edges)
    return svg.group([svg.polyline([*above, *below], "band")], title=f"{', '.join(band)}: {told}")


def _ends(ends: Sequence[tuple[float, float, str, str]], right: float, top: float, bottom: float) -> Iterator[str]:
    heights = labels.apart([y for _, y, _, _ in ends], svg.LINE, top, bottom)
    for (x, y, name, kind), height in zip(ends, heights, strict=True):
        yield svg.group([svg.polyline([(x, y), (right + 12, height)], "leader")], kind=kind)
        yield svg.text(right + 15, height + 4, name)


def _told(name: str, points: Sequence[tuple[int, Interval]]) -> str:
    return f"{name}: " + "; ".join(f"{x:,}: {number(each.value)}" for x, each in points)


def _short(value: float) -> str:
    """Write a tick in few letters: 20k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and value % (size / 100) == 0:
            return f"{value / size:.10g}{letter}"
    return written(value)


def _labelled(scale: Scale, values: Sequence[int]) -> list[float]:
    """Return the values of an axis with a label: those that were measured, and others if these are fewer than three."""
    found = sorted({*map(float, values), *(scale.ticks() if len(values) < 3 else ())})
    kept = [float(each) for each in values]
    for value in found:
        if min(abs(scale.at(value) - scale.at(each)) for each in kept) > svg.width(_short(value)):
            kept.append(value)
    return sorted(kept)


# -- differences -------------------------------------------------------------------------------------------------------


def differences(found: Mapping[str, Mapping[str, float]], base: str) -> dict[str, dict[str, float]]:
    """Return, per plane, the differences of its costs to those of `base`, in groups of parts and the rest."""
    told: dict[str, dict[str, float]] = {}
    for plane, costs in found.items():
        more = {part: value - found[base].get(part, 0.0) for part, value in costs.items()}
        grouped = {group: sum(more.get(part, 0.0) for part in parts) for group, parts in looks.PARTS.items()}
        grouped["the rest"] = sum(more.values()) - sum(grouped.values())
        told[plane] = grouped
    return {plane: each for plane, each in told.items() if plane != base}


def parted(report: Report, what: str, rows: Mapping[str, Mapping[str, float]], axis: str) -> str:
    """Return a chart with a column per group of parts, and in it a bar per plane from zero to the difference."""
    parts_of = list(next(iter(rows.values())))
    order = placements(report, {name: sum(each.values()) for name, each in rows.items()})
    ends = [value for each in rows.values() for value in each.values()]
    wide, gap = 132.0, 12.0
    column = around([0.0, *ends], 0, wide, room=0.05)
    drawn: list[str] = []
    top = 40.0
    height = top + _ROW * sum(1 + len(names) for _, names in order)
    for n, part in enumerate(parts_of):
        left = _NAMES + n * (wide + gap)
        drawn += _columns_head(part, left, wide)
        for tick in _few(column):
            drawn.append(svg.rule(left + column.at(tick), top, 0, height - top, "axis" if tick == 0 else "grid"))
            drawn.append(svg.text(left + column.at(tick), height + 13, _short(tick), anchor="middle"))
    y = top
    for key, names in order:
        inside = [*_heading(key, y)]
        y += _ROW
        for name in names:
            bars = [svg.text(_NAMES - 8, y + 11, name, anchor="end")]
            for n, (part, value) in enumerate(rows[name].items()):
                zero, end = (_NAMES + n * (wide + gap) + column.at(each) for each in (0.0, value))
                bar = svg.path(f"M{zero:.1f} {y + 2:.1f}H{end:.1f}v{_ROW - 4:g}H{zero:.1f}z", "mark")
                bars.append(svg.group([bar], title=f"{name}, {part}: {value:+,.0f}"))
            inside.append(svg.group(bars))
            y += _ROW
        drawn.append(svg.group(inside, kind=f"at-{key}"))
    across = _NAMES + len(parts_of) * (wide + gap)
    drawn.append(svg.text((_NAMES + across) / 2, height + 29, axis, anchor="middle"))
    return svg.chart(what, (across, height + 36), drawn)


def _few(scale: Scale) -> list[float]:
    """Return labels for a narrow column: zero, and multiples of a round value on both sides."""
    found = scale.ticks()
    step = math.ceil(len(found) / 5)
    return [each for each in found if round(each / (found[1] - found[0])) % step == 0]


def _columns_head(part: str, left: float, wide: float) -> Iterator[str]:
    lines_of: list[str] = [""]
    for word in part.split():
        longer = f"{lines_of[-1]} {word}".strip()
        if svg.width(longer) <= wide:
            lines_of[-1] = longer
        else:
            lines_of.append(word)
    for n, words in enumerate(lines_of):
        yield svg.text(left, 34 - 13 * (len(lines_of) - 1 - n), words, kind="strong")
