"""Scales of charts: from values to positions, and the values that have a label. There are three labels at least."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec import Struct

_FEWEST, _MOST = 3, 7
_STEPS = (1, 2, 2.5, 5)


class Scale(Struct, frozen=True):
    """A scale from `low` to `high`, which lie at the positions `start` and `end`. A logarithmic one may begin at 0."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value."""
        low, here, high = (self._bent(each) for each in (self.low, value, self.high))
        share = (here - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def _bent(self, value: float) -> float:
        """Return the logarithm of a value. Zero lies half a decade below the least value that is drawn, 1."""
        if not self.logarithmic:
            return value
        return math.log10(value) if value > 0 else -0.5

    def ticks(self) -> list[float]:
        """Return the values with a label, three at least and a handful at most."""
        if self.logarithmic:
            for steps in ((1,), (1, 3), (1, 2, 5)):
                found = [*([0.0] if self.low <= 0 else []), *_decades(self.low, self.high, steps)]
                if _FEWEST <= len(found) <= _MOST:
                    return found
                if len(found) > _MOST:
                    return found[:: math.ceil(len(found) / _MOST)]
        return _even(self.low, self.high)


def _decades(low: float, high: float, steps: Sequence[int]) -> Iterator[float]:
    low = low if low > 0 else 1
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (step * 10.0**power for step in steps if low <= step * 10.0**power <= high * (1 + 1e-9))


def _even(low: float, high: float) -> list[float]:
    """Return round values at equal distances, as many as are allowed."""
    exponent = math.floor(math.log10(high - low or 1)) - 1
    while True:
        for step in _STEPS:
            width = step * 10.0**exponent
            first, last = math.ceil(low / width - 1e-9), math.floor(high / width + 1e-9)
            if last - first < _MOST:
                return [round(each * width, 12) for each in range(first, last + 1)]
        exponent += 1


def around(
    values: Sequence[float], start: float, end: float, *, logarithmic: bool = False, room: float = 0.06
) -> Scale:
    """Return a scale for values with some room on both sides.

    If all values are the same, the scale has values on both sides of it. A logarithmic scale has half a decade
    at least.
    """
    low, high = min(values), max(values)
    if logarithmic and low > 0:
        middle, width = math.log10(low * high) / 2, max(math.log10(high / low) * (1 + 2 * room), 0.5)
        return Scale(10 ** (middle - width / 2), 10 ** (middle + width / 2), start, end, True)
    width = (high - low) * room or abs(high) * 0.1 or 1.0
    return Scale(max(low - width, 0.0) if low >= 0 else low - width, high + width, start, end)


def written(value: float) -> str:
    """Write the label of a tick: whole numbers from 1,000 on with separators, others as short as they are exact."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.10g}"
