"""The section of the answer that holds the instruction clock against time, and the comparison that it shows."""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from bench.documents import Interval
from bench.report.columns import table
from bench.report.digits import ratio
from bench.report.model import Report, Side
from bench.report.questions import CAUSES
from bench.report.words import Words
from dataplanes.selection import DIRECT
from dataplanes.texts import clean, code

_USER_SPACE = "user space"
"""The part of a profile that is no part of the kernel."""
_WORTH = 0.01


class Timed(Struct, frozen=True):
    """A plane's rate as a ratio to `direct`, by instructions and by time."""

    plane: str
    counted: Interval
    timed: Interval

    @property
    def difference(self) -> float:
        """How much larger the ratio is by time, as a fraction."""
        return self.timed.value / self.counted.value - 1

    @property
    def distance(self) -> float:
        """How far the ratios are apart, whichever is larger."""
        return abs(math.log(self.timed.value / self.counted.value))

    @property
    def pace(self) -> float | None:
        """How long an instruction takes that the plane adds to `direct`'s, or saves, if one of `direct`'s takes 1.

        A connection costs the reciprocal of the rate. It is None if the plane costs more by one clock and less by the
        other, or the same.
        """
        counted, timed = (1 / each.value - 1 for each in (self.counted, self.timed))
        return timed / counted if counted * timed > 0 else None

    @property
    def apart(self) -> bool:
        """Whether the intervals have nothing in common. A ratio without an interval is an interval of its own."""
        (low, high), (least, most) = (_ends(each) for each in (self.counted, self.timed))
        return high < least or most < low

    @property
    def cause(self) -> str:
        """The known cause of the difference, or "". It is one if it moves this plane in the direction of the data."""
        return next(
            (each.why for each in CAUSES if each.plane == self.plane and each.faster == (self.difference > 0)), ""
        )


class Spent(Struct, frozen=True):
    """A part of the kernel, with what a plane adds there to a connection of `direct`, in instructions and in time.

    Both are shares of a whole connection of `direct`.
    """

    name: str
    counted: float
    timed: float


class Clocks(Struct, frozen=True):
    """Planes that were measured by both clocks, in the order of their ratios by instructions, the largest first.

    `correlation` is that of the ranks, if there is one. `parts` are those of the plane with the largest disagreement,
    if both runs have profiles of it and of `direct`.
    """

    counted: Side
    timed: Side
    planes: list[Timed]
    correlation: float | None
    parts: list[Spent]

    @property
    def largest(self) -> Timed:
        """The largest disagreement."""
        return max(self.planes, key=lambda each: each.distance)


def clocks(report: Report) -> Clocks | None:
    """Hold the rates of connections by the clocks against each other, or return None if no plane has both."""
    from bench.analysis.ranks import correlation  # scipy takes a moment

    counted, timed = report.measured_by("instructions"), report.measured_by("wall")
    if counted is None or timed is None:
        return None
    found = [
        Timed(name, counted.rates[name], timed.rates[name])
        for name in report.planes()
        if name != DIRECT and name in counted.rates and name in timed.rates
    ]
    if not found:
        return None
    found.sort(key=lambda each: -each.counted.value)
    ranks = correlation([each.counted.value for each in found], [each.timed.value for each in found])
    made = Clocks(counted, timed, found, ranks, [])
    return replace(made, parts=_parts(counted, timed, made.largest.plane))


def _parts(counted: Side, timed: Side, plane: str) -> list[Spent]:
    """Return the parts of the kernel where the plane adds something, those first in which the clocks differ most.

    Programs are left out, because the sampler sees those of the whole machine.
    """
    if not all(each.profiles.get(name) for each in (counted, timed) for name in (plane, DIRECT)):
        return []
    sides = [_added(each, plane) for each in (counted, timed)]
    names = dict.fromkeys(name for each in sides for name in each)
    found = [Spent(name, *(each.get(name, 0.0) for each in sides)) for name in names if name != _USER_SPACE]
    worth = [each for each in found if max(abs(each.counted), abs(each.timed)) >= _WORTH]
    return sorted(worth, key=lambda each: -abs(each.counted - each.timed))


def _added(side: Side, plane: str) -> dict[str, float]:
    """Return what the plane adds to a connection of `direct` by part. A connection costs the reciprocal of the rate."""
    cost, mine, reference = 1 / side.rates[plane].value, side.profiles[plane], side.profiles[DIRECT]
    return {name: cost * mine.get(name, 0.0) - reference.get(name, 0.0) for name in {**mine, **reference}}


def section(report: Report, say: Words) -> list[str]:
    """Return the two clocks side by side as lines of Markdown, or nothing if no plane was measured by both."""
    found = clocks(report)
    if found is None:
        return []
    before, *after = sentences(found, say)
    lines = [f"## {say('The instruction clock held against time')}", "", before, "", *table(*compared(found, say)), ""]
    lines += [line for each in after for line in (each, "")]
    return lines + ([parts_of(found, say), "", *table(*parts(found, say)), ""] if found.parts else [])


def sentences(found: Clocks, say: Words) -> list[str]:
    """Return the sentences before the table, and the paragraphs after it."""
    before = say(
        "Connections by both clocks, as ratios to `direct`. Instructions are those of kernel {counted} in an emulated "
        "guest (processors: {few}). Time is that of kernel {timed} on a machine (processors: {many}).",
        counted=code(_fact(found.counted, "kernel")),
        few=_fact(found.counted, "cpus"),
        timed=code(_fact(found.timed, "kernel")),
        many=_fact(found.timed, "cpus"),
    )
    shown = say(
        "The table shows whether the order of the planes, and about how far they are apart, hold in time as well: "
        "with caches, locks and several processors, on another kernel. It does not show which part of a difference is "
        "due to the clock and which part to the kernel, and it says nothing of planes that cannot run there."
    )
    order = [_order(found.correlation, len(found.planes), say)] if found.correlation is not None else []
    return [before, *order, _largest(found.largest, say), shown]


def compared(found: Clocks, say: Words) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table."""
    headings = [
        say("data plane"),
        say("by instructions ({kernel})", kernel=_fact(found.counted, "kernel_name")),
        say("by time ({kernel})", kernel=_fact(found.timed, "kernel_name")),
        say("difference"),
    ]
    return headings, [
        [code(each.plane), ratio(each.counted), ratio(each.timed), f"{each.difference:+.1%}"] for each in found.planes
    ]


def parts_of(found: Clocks, say: Words) -> str:
    """Return the sentence before the table of parts."""
    return say(
        "What {plane} adds to a connection of `direct` in the kernel, by profiles in the same runs, as shares of a "
        "connection of `direct`. The parts in which the clocks differ most come first:",
        plane=code(found.largest.plane),
    )


def parts(found: Clocks, say: Words) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table of parts."""
    headings = ["part of the kernel", "adds by instructions", "adds by time"]
    rows = [[say(each.name), f"{each.counted:+.1%}", f"{each.timed:+.1%}"] for each in found.parts]
    return list(map(say, headings)), rows


def _fact(side: Side, name: str) -> str:
    """Return a fact of a run, if it could be read."""
    return clean(str(side.environment.get(name, "?")))


def _order(correlation: float, count: int, say: Words) -> str:
    return say(
        "Spearman's rank correlation of the two columns is {value}, over {count} data planes.",
        value=f"{correlation:.3f}",
        count=count,
    )


def _largest(each: Timed, say: Words) -> str:
    told = say(
        "The largest disagreement is that of {plane}: {difference} by time.",
        plane=code(each.plane),
        difference=f"{each.difference:+.1%}",
    )
    if not each.apart:
        return told + say(" It lies within the intervals.")
    if each.pace is not None:
        told += say(
            " An instruction by which its connections differ from those of `direct` takes {pace} times as long as one "
            "of those takes on average.",
            pace=f"{each.pace:.2f}",
        )
    if not each.cause:
        return told + say(" Its cause is not known.")
    return told + say(" Its cause: {why}", why=say(each.cause))


def _ends(found: Interval) -> tuple[float, float]:
    if found.low is None or found.high is None:
        return found.value, found.value
    return found.low, found.high
