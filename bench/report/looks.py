"""The colours and shapes of data planes in charts, from looks.toml, and the style sheet that all charts share."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from bench.report.model import Report
from dataplanes.selection import balances


class _Looks(Struct, frozen=True, forbid_unknown_fields=True):
    colours: dict[str, tuple[str, str]]
    shapes: dict[str, str]
    mechanisms: dict[str, str]
    parts: dict[str, list[str]]


_LOOKS = msgspec.toml.decode((Path(__file__).parent / "looks.toml").read_text("utf-8"), type=_Looks)
COLOURS = _LOOKS.colours
"""Placement -> its colour on a light page and on a dark one."""
SHAPES = _LOOKS.shapes
"""Mechanism -> its shape."""
MECHANISMS = _LOOKS.mechanisms
"""Mechanism -> its name in words."""
PARTS = _LOOKS.parts
"""Group of parts of a profile -> the parts."""
OTHER = "other"
"""The key of the placements that have no colour of their own, the direct path's included."""


def colour(report: Report, plane: str) -> str:
    """Return the key of a plane's colour: its placement, if it has VIPs."""
    found = report.placement(plane)
    return found if found in COLOURS and balances(plane) else OTHER


def mechanism(report: Report, plane: str) -> str:
    """Return the mechanism of a plane among those with a shape, or "" for any other. Layouts are called by theirs."""
    words = report.told(plane).mechanism.split("-")
    return next((each for each in SHAPES for word in words if word.startswith(each)), "")


def style() -> str:
    """Return the style sheet of charts. Each placement's colour is the variable --c."""
    light, dark = ("".join(f".at-{name}{{--c:{pair[shade]}}}" for name, pair in COLOURS.items()) for shade in (0, 1))
    return (
        f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
        "svg.chart{font:11px system-ui,sans-serif;fill:currentColor}"
        ".chart .axis,.chart .grid{stroke:currentColor;stroke-width:.5;fill:none}.chart .grid{opacity:.25}"
        ".chart .ref{stroke:currentColor;stroke-dasharray:2 3;fill:none}"
        ".chart .limit{stroke:currentColor;stroke-dasharray:7 4;fill:none}"
        ".chart .mark{fill:var(--c);stroke:var(--c);stroke-width:1.5}.chart .mark.hollow{fill:none;stroke-width:2}"
        ".chart .line{stroke:var(--c);fill:none;stroke-width:1.6;stroke-linejoin:round}"
        ".chart .points{stroke:var(--c);fill:none;stroke-width:6;stroke-linecap:round}"
        ".chart .leader{stroke:var(--c);fill:none;stroke-width:.8}"
        ".chart text{stroke:var(--paper);stroke-width:2.5;paint-order:stroke;stroke-linejoin:round}"
        ".chart .lead{stroke:currentColor;stroke-width:.5;opacity:.5;fill:none}"
        ".chart .band{fill:currentColor;opacity:.22}"
        ".chart .strong{font-weight:700}"
    )
