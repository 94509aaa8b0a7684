"""A sheet that is filled from top to bottom with text, labels, and a line that goes from lane to lane."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from msgspec import Struct

from bench.report import svg

Text = tuple[str, str]
"""A text and its class."""
SIZES = {"": 12.0, "strong": 12.0, "small": 10.5, "title": 14.0}
"""Class of a text -> the size of its font."""
LINE, MARGIN, PAD = 16.0, 10.0, 6.0
"""The height of a line of text, the margin of a sheet, and the space around a text in a label."""
_LETTER = 0.61  # the width of a letter, as a part of the font's size: no usual monospace font has wider ones
_BESIDE = 16.0  # from a lane to its label
_DOWN = 20.0  # from what is above to an arrow, which has a text above
_MOST = 322.0  # the width of a line of a label: 44 letters of the usual size
STYLE = (
    "svg{--paper:#fff;--request:#2f6db3;--reply:#b8420a;--error:#a1247a;color:#1a1a1a;background:var(--paper);"
    "font:12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{--paper:#161616;--request:#7db4f0;--reply:#ff9b6b;--error:#f08bcb;"
    "color:#e8e8e6}}"
    "text{stroke:var(--paper);stroke-width:3;paint-order:stroke;stroke-linejoin:round}"
    + "".join(f".{kind}{{font-size:{size:g}px}}" for kind, size in SIZES.items() if kind)
    + ".strong,.title{font-weight:700}.node{opacity:.07}.lane{stroke:currentColor;stroke-dasharray:1 4;opacity:.6}"
    ".request{--way:var(--request)}.reply{--way:var(--reply)}.error{--way:var(--error)}"
    ".line{stroke:var(--way);stroke-width:2;fill:none}.reply .line,.error .line{stroke-dasharray:7 3}"
    ".mark{fill:var(--way);stroke:var(--way);stroke-width:2}"
    ".label{fill:var(--paper);stroke:var(--way)}.lead{stroke:var(--way)}"
)
"""The style sheet, with colours for a light page and for a dark one. Replies are dashed, for print in grey."""


def width(text: str, kind: str = "") -> float:
    """Return the width that a text of a class takes at most."""
    return svg.width(text) / svg.TEXT * _LETTER * SIZES[kind]


class Sheet(Struct):
    """What is drawn so far, and how far to the right and down it reaches."""

    right: float
    bottom: float = 8.0
    parts: list[str] = []

    def write(self, x: float, said: Sequence[Text], anchor: str = "") -> None:
        """Write lines of text below what is there."""
        for text, kind in said:
            self.bottom += LINE
            self.parts.append(svg.text(x, self.bottom - 4, text, anchor=anchor, kind=kind))
            if not anchor:
                self.right = max(self.right, x + width(text, kind) + MARGIN)

    def paragraph(self, text: str, kind: str = "", *, indent: float = 0.0) -> None:
        """Write a text below what is there, in as many lines as it needs."""
        letters = int((self.right - 2 * MARGIN - indent) / width("x", kind))
        self.write(MARGIN + indent, [(part, kind) for part in wrap(text, letters)])

    def label(self, x: float, said: Sequence[Text], *, framed: bool) -> float:
        """Write a label beside a lane, where there is room. Return the height of its middle."""
        lines = [(part, kind) for text, kind in said for part in wrap(text, int(_MOST / width("x", kind)))]
        wide = max(width(text, kind) for text, kind in lines) + 2 * PAD
        top, high = self.bottom + 8, len(lines) * LINE + PAD
        left = x + _BESIDE
        if left + wide + MARGIN > self.right and x - _BESIDE - wide >= MARGIN:
            left = x - _BESIDE - wide
        if framed:
            near = left if left > x else left + wide
            self.parts.append(svg.rule(x, top + high / 2, near - x, 0, "lead"))
            self.parts.append(svg.path(f"M{left:.1f} {top:.1f}h{wide:.1f}v{high:.1f}h{-wide:.1f}z", "label"))
        self.right, self.bottom = max(self.right, left + wide + MARGIN), top + 1
        self.write(left + PAD, lines)
        self.bottom = top + high
        return top + high / 2


class Pen:
    """The line of one packet on a sheet. It goes on at its height as long as it keeps its direction."""

    def __init__(self, sheet: Sheet, x: float) -> None:
        """Begin in a lane, below what is there."""
        self.lines: list[str] = []
        self._sheet, self._x, self._y = sheet, x, sheet.bottom + _DOWN
        self._towards: int | None = None  # 0: it has to go down first; None: it may go anywhere
        sheet.bottom = self._y
        self.lines.append(svg.mark("circle", x, self._y, radius=3))

    def cross(self, x: float, said: str) -> None:
        """Draw an arrow to another lane, with a text above it."""
        towards = 1 if x > self._x else -1
        if self._towards not in (None, towards):
            self._down(self._sheet.bottom + _DOWN)
        self._sheet.bottom = max(self._sheet.bottom, self._y)
        self.lines.append(svg.rule(self._x, self._y, x - self._x - 6 * towards, 0, "line"))
        self.lines.append(svg.path(f"M{x:.1f} {self._y:.1f}l{-9 * towards} -4.5v9z", "mark"))
        self._sheet.parts.append(svg.text((self._x + x) / 2, self._y - 5, said, anchor="middle", kind="small"))
        self._x, self._towards = x, towards

    def label(self, said: Sequence[Text], shape: str) -> None:
        """Write a label beside the lane, with a mark if it has a shape. A cross or diamond has a frame."""
        self._down(self._sheet.label(self._x, said, framed=shape not in ("", "circle")))
        if shape:
            self.lines.append(svg.mark(shape, self._x, self._y))
        self._towards = 0

    def _down(self, y: float) -> None:
        self.lines.append(svg.rule(self._x, self._y, 0, y - self._y, "line"))
        self._y = y
