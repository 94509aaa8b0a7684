"""Where labels go: beside their points without overlapping, or in a column at the ends of lines."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench.report import svg


class Rectangle(Struct, frozen=True):
    """A rectangle in a chart."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Rectangle) -> float:
        """Return the area that two boxes share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across * down if across > 0 and down > 0 else 0.0

    def outside(self, frame: Rectangle) -> float:
        """Return how much of the box lies outside of a frame."""
        area = (self.right - self.left) * (self.bottom - self.top)
        return area - self.shared(frame)


class Label(Struct, frozen=True):
    """A text at a point, and whether a line leads to it."""

    x: float
    y: float
    anchor: str
    led: bool


_NEAR = ((9, 4, ""), (-9, 4, "end"), (0, -9, "middle"), (0, 18, "middle"))
_SLANTED = ((8, -6, ""), (8, 14, ""), (-8, -6, "end"), (-8, 14, "end"))
_FAR = tuple(
    (side * across, down, anchor)
    for down in (-18, 26, -31, 39, -44, 52, -57, 65, -70, 78, -83, 91)
    for across in (14, 34, 64)
    for side, anchor in ((1, ""), (-1, "end"))
)
_PLACES = (*_NEAR, *_SLANTED, *_FAR)


def beside(points: Sequence[tuple[float, float, str]], frame: Rectangle, taken: Sequence[Rectangle]) -> list[Label]:
    """Place a text beside each point (x, y, text), inside of a frame and off the boxes that are taken.

    The first point has the first choice. If no place is free, the one that covers least is taken.
    """
    boxes = [*taken, *(Rectangle(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points)]
    placed = []
    for x, y, text in points:
        near = len(_NEAR) + len(_SLANTED)
        choices = [Label(x + dx, y + dy, anchor, n >= near) for n, (dx, dy, anchor) in enumerate(_PLACES)]
        covered = [_covered(_box(each, text), boxes, frame) for each in choices]
        best = choices[covered.index(min(covered))]  # the nearest of those that cover least
        boxes.append(_box(best, text))
        placed.append(best)
    return placed


def _covered(box: Rectangle, boxes: Sequence[Rectangle], frame: Rectangle) -> float:
    return 4 * box.outside(frame) + sum(box.shared(each) for each in boxes)


def _box(label: Label, text: str) -> Rectangle:
    wide = 1.08 * svg.width(text)  # it may be bold
    left = label.x - {"": 0.0, "end": wide, "middle": wide / 2}[label.anchor]
    return Rectangle(left, label.y - 10, left + wide, label.y + 3)


def apart(heights: Sequence[float], least: float, top: float, bottom: float) -> list[float]:
    """Move heights apart until each is `least` from the next, in their order, between top and bottom.

    Heights that are too near become a block around their mean. Blocks that touch are joined.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _begin(blocks[-2], heights, least, top, bottom) + least * len(blocks[-2]) > _begin(
            blocks[-1], heights, least, top, bottom
        ):
            last = blocks.pop()
            blocks[-1] += last
    found = [0.0] * len(heights)
    for block in blocks:
        begin = _begin(block, heights, least, top, bottom)
        for number, index in enumerate(block):
            found[index] = begin + least * number
    return found


def _begin(block: Sequence[int], heights: Sequence[float], least: float, top: float, bottom: float) -> float:
    """Return the height of a block's first member."""
    begin = sum(heights[index] for index in block) / len(block) - least * (len(block) - 1) / 2
    return max(top, min(begin, bottom - least * (len(block) - 1)))
