"""Plots as inline SVG. They are readable in grey (a marker and a dash per plane), and in light and dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from html import escape
from typing import Any

import matplotlib as mpl

mpl.use("svg")  # set before pyplot is imported

from matplotlib import pyplot as plt
from matplotlib.axes import Axes as Plot
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.documents import Interval
from bench.documents.metrics import METRICS
from bench.documents.overview import Curve
from bench.documents.workloads import WORKLOADS
from dataplanes.texts import line
from scenarios.axes import AXES

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vip-bench",  # the same data give the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with dollar signs is no formula
}
_INK = "#000000"
_SUPERFLUOUS = [
    re.compile(pattern, re.S)
    for pattern in (
        r"<metadata>.*?</metadata>",
        r" font-family: [^;]*;",  # the page's own font
        r' transform="rotate\(-0 [^"]*"',
        r"(?<=\.\d\d)\d+(?=[^<>]*>)",  # in tags, to a hundredth of a point
    )
]
# Tol's bright colours, which colour-blind readers can tell apart.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa8800", "#66ccee", "#aa3377")
_MARKERS = "osD^vP*Xh<>d"
_HATCHES = ("", "////", "\\\\\\\\")
_DASHES = ("-", "--", "-.", ":")


def style(plane: str, planes: list[str]) -> tuple[str, str, str]:
    """Return (colour, marker, dash) of a plane among others. It is the same in every plot of a report.

    No two of the first 288 planes have the same one.
    """
    number = planes.index(plane)
    turns = number // len(_COLOURS)
    marker = number + turns // len(_DASHES)  # colour and dash come again together, and then with another marker
    return _COLOURS[number % len(_COLOURS)], _MARKERS[marker % len(_MARKERS)], _DASHES[turns % len(_DASHES)]


def bars(
    title: str, axis: str, rows: Mapping[str, Interval], planes: list[str], *, limit: Interval | None = None
) -> str:
    """Return a plot with a dot and its interval per plane, and lines at the reference and at the limit."""
    with mpl.rc_context(_STYLE):
        figure, plot = plt.subplots(figsize=(7.2, 0.9 + 0.27 * len(rows)))
        for number, (name, found) in enumerate(rows.items()):
            colour, marker, _ = style(name, planes)
            low, high = found.low or found.value, found.high or found.value
            plot.plot([low, high], [number, number], color=colour, linewidth=2)
            plot.plot([found.value], [number], marker=marker, color=colour)
            plot.annotate(f"{found.value:.3f}", (high, number), xytext=(6, -3), textcoords="offset points", fontsize=9)
        plot.axvline(1.0, color=_INK, linewidth=0.8, linestyle=":")
        if limit:
            plot.axvline(limit.value, color=_INK, linewidth=0.8, linestyle="--")
        plot.set_yticks(range(len(rows)), list(map(line, rows)))
        plot.invert_yaxis()
        plot.set_xlabel(axis)
        plot.margins(x=0.12, y=0.5 / max(len(rows), 1))
        return _svg(figure, title)


def stacked(title: str, axis: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a plot with a bar per plane, in parts that differ by shade and hatch. The widest parts have a number."""
    parts = list(dict.fromkeys(part for shares in rows.values() for part in shares))
    with mpl.rc_context(_STYLE):
        figure, plot = plt.subplots(figsize=(7.2, 0.9 + 0.3 * len(rows)))
        start = [0.0] * len(rows)
        for number, part in enumerate(parts):
            widths = [shares.get(part, 0) for shares in rows.values()]
            colour, hatch = _COLOURS[number % len(_COLOURS)], _HATCHES[number // len(_COLOURS) % len(_HATCHES)]
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "#ffffff", "linewidth": 0.5}
            plot.barh(range(len(rows)), widths, left=start, height=0.7, label=line(part), **look)
            start = [a + b for a, b in zip(start, widths, strict=True)]
        plot.set_yticks(range(len(rows)), list(map(line, rows)))
        plot.invert_yaxis()
        plot.set_xlabel(axis)
        plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        plot.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        return _svg(figure, title)


def curve(found: Curve, planes: list[str]) -> str:
    """Return a plot with a line per plane. Both axes are logarithmic."""
    metric = METRICS[found.metric]
    with mpl.rc_context(_STYLE):
        figure, plot = plt.subplots(figsize=(7.2, 4.2))
        for name, points in found.planes.items():
            colour, marker, dash = style(name, planes)
            xs, ys = [x for x, _ in points], [y.value for _, y in points]
            plot.plot(
                xs, ys, color=colour, marker=marker, linestyle=dash, label=line(name), markersize=5, linewidth=1.4
            )
        _logarithmic(plot, found)
        plot.set_xlabel(AXES[found.axis][0].replace("{:,} ", ""))
        plot.set_ylabel(metric.column())
        plot.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
        return _svg(figure, title(found))


def title(found: Curve) -> str:
    """Return the title of a curve."""
    axis = AXES[found.axis][0].replace("{:,} ", "")
    return f"{WORKLOADS[found.workload].title}: {METRICS[found.metric].title} against {axis}"


def _logarithmic(plot: Plot, found: Curve) -> None:
    values = sorted({x for points in found.planes.values() for x, _ in points})
    if values[0] == 0:
        plot.set_xscale("symlog", linthresh=1)
    else:
        plot.set_xscale("log")
    plot.set_xticks(values, [f"{value:,}" for value in values], minor=False)
    plot.minorticks_off()
    if all(y.value > 0 for points in found.planes.values() for _, y in points):
        plot.set_yscale("log")
        plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        plot.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}" if _lead(value) in "25" else ""))
    plot.grid(True, which="major", linewidth=0.4, alpha=0.4)


def _lead(value: float) -> str:
    return f"{value:e}"[0]


def _svg(figure: Figure, title: str) -> str:
    """Return the drawing alone, with a title for a reader that cannot see it. Its ink has the text's colour."""
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # in its own font, which differs from the reader's
        figure.savefig(out, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    for superfluous in _SUPERFLUOUS:
        text = superfluous.sub("", text)
    text = re.sub(r"\s*\n\s*", " ", text)  # these are two thirds of matplotlib's output
    text = re.sub(r"(fill|stroke): ?#000000", r"\1: currentColor", text)
    text = text.replace("<text ", '<text fill="currentColor" ')
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
