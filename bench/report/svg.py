"""The parts of which charts are made: text, marks and lines as SVG, and the boxes that texts take."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from html import escape

from dataplanes.texts import line

TEXT = 6.1
"""The width that a chart reserves for a letter, in its units."""
LINE = 13.0
"""The height of a line of text."""


def width(text: str) -> float:
    """Return the width that a text takes at most. A wide letter, such as a Chinese one, takes twice as much."""
    return sum(TEXT * (2 if unicodedata.east_asian_width(letter) in "WF" else 1) for letter in text)


def chart(title: str, size: tuple[float, float], parts: Iterable[str], *, more: str = "") -> str:
    """Return a chart with a title for readers that cannot see it. `more` is a class, or several."""
    classes = f"chart {more}".strip()
    across, down = size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{classes}" role="img" aria-label="{escape(line(title))}" '
        f'viewBox="0 0 {across:g} {down:g}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, said: str, *, anchor: str = "", kind: str = "", turn: bool = False) -> str:
    """Return a line of text. `anchor` is "end" or "middle", and `kind` a class."""
    more = f' text-anchor="{anchor}"' if anchor else ""
    more += f' class="{kind}"' if kind else ""
    more += f' transform="rotate(-90 {x:.5g} {y:.5g})"' if turn else ""
    return f'<text x="{_p(x)}" y="{_p(y)}"{more}>{escape(line(said), quote=False)}</text>'


def path(commands: str, kind: str) -> str:
    """Return a path of a class."""
    return f'<path class="{kind}" d="{commands}"/>'


def rule(x: float, y: float, across: float, down: float, kind: str) -> str:
    """Return a straight line from a point, so far to the right and so far down."""
    return path(f"M{_p(x)} {_p(y)}l{_p(across)} {_p(down)}", kind)


def polyline(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return a line through points."""
    return path("M" + "L".join(f"{_p(x)} {_p(y)}" for x, y in points), kind)


def dots(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Return a dot at each point: a line without length, with round ends."""
    return path("".join(f"M{_p(x)} {_p(y)}h0" for x, y in points), kind)


def group(parts: Iterable[str], *, kind: str = "", title: str = "") -> str:
    """Return parts that belong together. The title is what is shown when the mouse points at them."""
    told = f"<title>{escape(line(title), quote=False)}</title>" if title else ""
    return f"<g{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{told}{''.join(parts)}</g>"


def mark(shape: str, x: float, y: float, *, radius: float = 4.5, hollow: bool = False) -> str:
    """Return a mark: a circle, square, diamond or triangle of equal weight, or a cross for any other shape."""
    r = radius
    drawn = {
        "circle": f"M{_p(x - r)} {_p(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        "square": f"M{_p(x - 0.9 * r)} {_p(y - 0.9 * r)}h{_p(1.8 * r)}v{_p(1.8 * r)}h{_p(-1.8 * r)}z",
        "diamond": f"M{_p(x)} {_p(y - 1.3 * r)}l{_p(1.3 * r)} {_p(1.3 * r)}l{_p(-1.3 * r)} {_p(1.3 * r)}"
        f"l{_p(-1.3 * r)} {_p(-1.3 * r)}z",
        "triangle": f"M{_p(x)} {_p(y - 1.3 * r)}l{_p(1.2 * r)} {_p(2.2 * r)}h{_p(-2.4 * r)}z",
    }.get(shape, f"M{_p(x - r)} {_p(y - r)}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}")
    return path(drawn, "mark hollow" if hollow else "mark")


def _p(value: float) -> str:
    """Write a position to a tenth of a unit, which is less than a pixel."""
    return f"{value:.1f}".removesuffix(".0")
