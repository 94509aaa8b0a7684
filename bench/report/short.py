"""The short answer: a sentence for each place that the article asks about, and a table for half a minute."""

from __future__ import annotations

from msgspec import Struct

from bench.documents import Interval
from bench.report.model import Report
from bench.report.places import Best, Standing, Twin, best, families, standing
from bench.report.questions import HIDDEN, PLACES_ASKED, QUESTIONS, REFERENCE, SHIPPED, place, topics
from bench.report.words import ENGLISH, Words
from dataplanes.selection import SHORT
from scenarios.axes import Axes
from scenarios.clauses import LEVELS

_NAMED = 5  # the most topics that a cell names


class Short(Struct, frozen=True):
    """The short answer. The second cell of a row is the name of a plane, and the others are words."""

    sentences: list[str]
    headings: list[str]
    rows: list[list[str]]


def short(report: Report, say: Words = ENGLISH) -> Short | None:
    """Return the short answer, or None if the documents compare no places: they lack checks or costs."""
    found = best(report)
    if len(found) < 2:
        return None
    planes = _planes(report, found, say)
    columns = _columns(report, [plane for _, plane in planes if plane], say)
    rows = [
        [
            where,
            plane,
            *(_digits(report.rate(plane, workload, at=at)) if plane else "" for workload, at in columns.values()),
            _lost(report, plane, say) if plane else say("no plane has every core semantic"),
        ]
        for where, plane in planes
    ]
    headings = [
        say("where the VIP is handled"),
        say("data plane"),
        *columns,
        say("lost against {product}", product=say(SHIPPED[0].by)),
    ]
    return Short(_sentences(report, found, say), headings, rows)


def _planes(report: Report, found: list[Best], say: Words) -> list[tuple[str, str]]:
    """Return the rows' planes, each with its place in words: those that Docker shipped, the best ones, the limit."""
    measured = report.planes()
    made = [
        (
            say("{place}, as in {product}", place=say(place(report.placement(each.plane))), product=say(each.by)),
            each.plane,
        )
        for each in SHIPPED
        if each.plane in measured
    ]
    told = {plane for _, plane in made}
    made += [(say(place(each.placement)), each.plane) for each in found if each.plane not in told]
    return made + ([(say("no load balancer, past the bridge: the limit"), SHORT)] if SHORT in measured else [])


def _columns(report: Report, planes: list[str], say: Words) -> dict[str, tuple[str, Axes]]:
    """Return the workloads of which a rate is shown, by the heading: at the scenario's size, and with many services."""
    here = {say("connections, of direct"): ("crr", Axes())}
    for size in sorted({at.services for workload, at in report.workloads() if workload == "crr"}, reverse=True):
        at = Axes(services=size)
        if size > 1 and all(report.rate(plane, at=at) for plane in planes):
            here[say("with {count} services", count=f"{size:,}")] = ("crr", at)
            break
    others = {say("traffic to no VIP, of direct"): ("others", Axes())}
    return here | (others if any(report.rate(plane, "others") for plane in planes) else {})


def _digits(found: Interval | None) -> str:
    return f"{found.value:.3f}" if found else ""


def _lost(report: Report, plane: str, say: Words) -> str:
    found = standing(report, plane)
    if plane == REFERENCE or found is None:
        return ""
    told = [
        say("{level}: {what}", level=say(level), what=_named(found.lost[level], say))
        for level in LEVELS
        if found.lost[level]
    ]
    return "; ".join(told) or say("nothing")


def _named(checks: list[str], say: Words) -> str:
    """Return the topics of checks, at most a few of them."""
    found = [say(each) for each in topics(checks)]
    more = [say("{count} more", count=len(found) - _NAMED)] if len(found) > _NAMED else []
    return ", ".join([*found[:_NAMED], *more])


def _sentences(report: Report, found: list[Best], say: Words) -> list[str]:
    """Return, for each place that the article asks about, its effect and what the place alone costs.

    The effect is that of the best plane there, if no plane there is programmed like one at the reference's place.
    """
    made = []
    for placement in PLACES_ASKED:
        twins = [twin for twin in _twins(report) if report.placement(twin.plane) == placement]
        alike = min(filter(None, (twin.standing for twin in twins)), key=Standing.weight, default=None)
        if alike is None:
            plane = next((each.plane for each in found if each.placement == placement), "")
            alike = standing(report, plane) if plane else None
        if alike:
            words = say("In {placement} they have {effect}", placement=say(place(placement)), effect=say(alike.effect))
            lost = say(
                "{core} core and {extended} extended semantics are lost",
                core=len(alike.lost["core"]),
                extended=len(alike.lost["extended"]),
            )
            made.append(
                say(
                    "**{words}**: {facts}.",
                    words=words,
                    facts="".join(
                        [
                            lost,
                            *_hidden(report, alike.plane, say),
                            *_paid(twins, say(place(report.placement(REFERENCE))), say),
                        ]
                    ),
                )
            )
    return made


def _hidden(report: Report, plane: str, say: Words) -> list[str]:
    """Return that a plane leaves containers as they are, if it is so."""
    found = [report.answer(plane, each) for each in QUESTIONS if each.name == HIDDEN]
    return [say("; containers stay untouched")] if found == ["yes"] else []


def _twins(report: Report) -> list[Twin]:
    """Return the planes of the reference's mechanism that are programmed like one at the reference's place."""
    told = report.told(REFERENCE)
    found = (each for each in families(report) if each.mechanism == told.mechanism)
    twins = (twin for each in found for twin in each.twins.values())
    return [twin for twin in twins if twin.plane != twin.base and report.placement(twin.base) == told.placement]


def _paid(twins: list[Twin], home: str, say: Words) -> list[str]:
    """Return what a place costs in all ways to program it, from the least to the most, against its twins' home."""
    found = sorted(twin.ratio.value for twin in twins if twin.ratio)
    if not found:
        return []
    low, high = (f"{value:.2f}" for value in (found[0], found[-1]))
    times = low if low == high else say("{low} to {high}", low=low, high=high)
    return [
        say(
            "; a connection costs {times} times as much as with the same programming in {place}",
            times=times,
            place=home,
        )
    ]
