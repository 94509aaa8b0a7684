"""The sections of the answer that compare places, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.documents import Interval
from bench.report.columns import table
from bench.report.digits import number, ratio
from bench.report.model import Report
from bench.report.places import Best, Family, Standing, Twin, best, families, needs, standing
from bench.report.questions import REFERENCE, SHIPPED, place
from bench.report.short import short
from bench.report.words import Words
from dataplanes.knobs import shown
from dataplanes.selection import SHORT, balances
from dataplanes.texts import code, markdown
from scenarios.axes import Axes
from scenarios.clauses import LEVELS, Level, level


def summary(report: Report, say: Words) -> list[str]:
    """Return the short answer as lines of Markdown, or nothing if the documents compare no places."""
    found = short(report, say)
    if found is None:
        return []
    rows = [[row[0], code(row[1]) if row[1] else "", *row[2:]] for row in found.rows]
    return [*(f"- {markdown(each)}" for each in found.sentences), "", *table(found.headings, rows), ""]


# -- like for like -----------------------------------------------------------------------------------------------------


def alike(report: Report, say: Words) -> list[str]:
    """Return what the place alone changes: planes of one mechanism that are programmed alike."""
    found = families(report)
    if not found:
        return []
    explained = say(
        "Each column is one way to program a mechanism, wherever it can be programmed. A cell has the cost of a "
        "connection, and its ratio to that of the first row."
    )
    lines = [f"## {say('Like for like: what the place alone changes')}", "", explained, ""]
    for each in found:
        lines += _family(report, each, say)
    return lines


def _family(report: Report, family: Family, say: Words) -> list[str]:
    lines = [f"### {family.mechanism}", "", *_compared(report, family, say), ""]
    for at in larger(report):
        for each in families(report, at):
            if (each.mechanism, each.base) == (family.mechanism, family.base):
                told = say("With {count} services:", count=f"{at.services:,}")
                lines += [told, "", *_compared(report, each, say), ""]
    others = [plane for plane in family.planes() if plane != family.base]
    found = [line for plane in others for line in _place_alone(family.of(plane), say)]
    return [*lines, *found, ""] if found else lines


def larger(report: Report) -> list[Axes]:
    """Return the point with the most services at which connections were measured in every family, if there is one."""
    points = sorted({at.services for workload, at in report.workloads() if workload == "crr" and at.services > 1})
    every = _bases(report, None)
    return next(([at] for at in map(_services, reversed(points)) if every <= _bases(report, at)), [])


def _services(count: int) -> Axes:
    return Axes(services=count)


def _bases(report: Report, at: Axes | None) -> set[tuple[str, str]]:
    return {(each.mechanism, each.base) for each in families(report, at)}


def _compared(report: Report, family: Family, say: Words) -> list[str]:
    headings, rows = compared(report, family, say)
    return table(headings, [[row[0], code(row[1]), *row[2:]] for row in rows])


def compared(report: Report, family: Family, say: Words) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a family's table. The second cell of a row is the name of a plane."""
    planes = sorted(family.planes(), key=lambda name: name != family.base)
    headings = [say("place"), say("data plane"), *(each or say("cost") for each in family.programmings)]
    rows = []
    for plane in planes:
        where = say(place(report.placement(family.of(plane)[0].plane)))
        cells = (family.twins.get((plane, each)) for each in family.programmings)
        rows.append([where, plane, *map(_twin, cells)])
    return headings, rows


def _twin(twin: Twin | None) -> str:
    if twin is None:
        return ""
    return number(twin.cost) + (f" ({ratio(twin.ratio)})" if twin.plane != twin.base and twin.ratio else "")


def _place_alone(twins: Sequence[Twin], say: Words) -> list[str]:
    """Return what a plane loses and gains against its twins, and the knobs in which they differ."""
    grouped: dict[str, list[Twin]] = {}
    for twin in twins:
        knobs = [f"`{name}={shown(here)}`, {say('not')} `{shown(there)}`" for name, (there, here) in twin.knobs.items()]
        told = [say("knobs that follow the place: {knobs}", knobs="; ".join(knobs))] if knobs else []
        if twin.standing:
            told += [say("lost: {what}", what=_by_level(twin.standing.lost, say))]
            told += [say("gained: {what}", what=_by_level(twin.standing.gained, say))]
        if told:
            grouped.setdefault("; ".join(told), []).append(twin)
    return [
        say(
            "- {planes} against {bases}: {told}.",
            planes=_names(twin.plane for twin in found),
            bases=_names(twin.base for twin in found),
            told=told,
        )
        for told, found in grouped.items()
    ]


def _by_level(checks: dict[Level, list[str]], say: Words) -> str:
    """Return the names of checks by level."""
    told = [f"{say(each)} {', '.join(map(code, checks[each]))}" for each in LEVELS if checks[each]]
    return ", ".join(told) or say("nothing")


# -- against what Docker has shipped -----------------------------------------------------------------------------------


def shipped(report: Report, say: Words) -> list[str]:
    """Return every plane against those that Docker has shipped."""
    measured = report.planes()
    bases = [each for each in SHIPPED if each.plane in measured]
    if not bases:
        return []
    headings = [say("place"), say("data plane")]
    for each in bases:
        headings += [say("effect, as {plane}", plane=each.plane), say("lost"), say("gained"), say("cost")]
    rows = []
    for name in measured:
        cells = [cell for each in bases for cell in _against(report, name, each.plane, say)]
        if balances(name) and any(cells):
            rows.append([say(place(report.placement(name))), code(name), *cells])
    explained = say(
        "Lost and gained count core / extended / visible semantics. Cost is that of a connection, a ratio. {planes}.",
        planes="; ".join(say("{plane} is {product}", plane=code(each.plane), product=say(each.by)) for each in bases),
    )
    return [f"## {say('Against what Docker has shipped')}", "", explained, "", *table(headings, rows), ""]


def _against(report: Report, name: str, base: str, say: Words) -> list[str]:
    if name == base:
        return ["", "", "", "1.00x"]
    found, paid = standing(report, name, base), report.relative(name, base)
    told = [say(found.effect), counts(found.lost), counts(found.gained)] if found else ["", "", ""]
    return [*told, f"{paid.value:.2f}x" if paid else ""]


def counts(checks: dict[Level, list[str]]) -> str:
    """Return how many checks of each level there are: core / extended / visible."""
    return " / ".join(str(len(checks[each])) for each in LEVELS)


# -- the best of each place --------------------------------------------------------------------------------------------


def bests(report: Report, say: Words) -> list[str]:
    """Return the best plane of each place, and what it loses."""
    found = best(report)
    if not found:
        return []
    lines = [f"## {say('The best that each place can do')}", ""]
    headings = ["place", "data plane", "connections, of direct", "of the limit", "effect", "lost"]
    rows = []
    for each in found:
        seen = standing(report, each.plane) if each.plane else None
        effect = [say(seen.effect), counts(seen.lost)] if seen and each.plane != REFERENCE else ["", ""]
        rates = (
            [ratio(report.rate(each.plane)), _value(report.rate(each.plane, base=SHORT))] if each.plane else ["", ""]
        )
        rows.append([say(place(each.placement)), code(each.plane) if each.plane else say("none"), *rates, *effect])
    lines += [*table(list(map(say, headings)), rows), ""]
    for each in found:
        lines += _chosen(report, each, say)
    return lines


def _value(found: Interval | None) -> str:
    return f"{found.value:.3f}" if found else ""


def _chosen(report: Report, each: Best, say: Words) -> list[str]:
    """Return what the best plane of a place loses and gains, and why a cheaper one is not the best."""
    lines = [f"### {say(place(each.placement))}", ""]
    seen = standing(report, each.plane) if each.plane else None
    if seen:
        lines += _losses(report, seen, say)
    cheaper = [
        say("- {plane} is cheaper, and lacks core semantics: {checks}.", plane=code(name), checks=_names(checks))
        for name, checks in each.cheaper.items()
    ]
    lines += [*cheaper, ""] if cheaper else []
    return lines if len(lines) > 2 else []


def _losses(report: Report, seen: Standing, say: Words) -> list[str]:
    """Return what a plane loses by level and reason, and what it gains."""
    lines = []
    for each in LEVELS:
        reasons: dict[str, list[str]] = {}
        for check in seen.lost[each]:
            reasons.setdefault(_reason(report, seen.plane, check, say), []).append(check)
        if reasons:
            told = [f"- {_names(checks)}: {markdown(reason)}" for reason, checks in reasons.items()]
            lines += [
                say("{plane} loses of the {level} semantics:", plane=code(seen.plane), level=say(each)),
                "",
                *told,
                "",
            ]
    gained = _by_level(seen.gained, say)
    return [*lines, say("{plane} gains: {what}.", plane=code(seen.plane), what=gained), ""]


def _reason(report: Report, plane: str, check: str, say: Words) -> str:
    cells = [c for c in (report.cell(k, plane, check) for k in report.kernels()) if c and c.outcome in ("fail", "skip")]
    why = "; ".join(say.reason(reason) for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason))
    return why or say("Seen: {detail}", detail=say.reason(cells[0].detail))


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))


def meanings(report: Report, say: Words) -> list[str]:
    """Return the statement of every check that some plane loses or gains against the reference."""
    found = [standing(report, plane) for plane in report.planes()]
    differing = {
        check
        for each in found
        if each
        for side in (each.lost, each.gained)
        for checks in side.values()
        for check in checks
    }
    rows = [
        [code(check), say(level(check)), say.statement(check, statement)]
        for check, statement in report.checks().items()
        if check in differing
    ]
    headings = ["semantic", "level", "statement"]
    return [f"## {say('The semantics that differ')}", "", *table(list(map(say, headings)), rows), ""] if rows else []


# -- what it costs others, and what it needs ---------------------------------------------------------------------------


def others(report: Report, say: Words) -> list[str]:
    """Return what a plane costs the traffic to no VIP."""
    rows = []
    for name in report.planes():
        rates = [ratio(report.rate(name, "others")), _value(report.rate(name, "others", SHORT))]
        if any(rates):
            rows.append([say(place(report.placement(name))) if balances(name) else "", code(name), *rates])
    headings = ["place", "data plane", "rate, of direct", "of the limit"]
    title = f"## {say('What it costs others: connections to no VIP')}"
    return [title, "", *table(list(map(say, headings)), rows), ""] if rows else []


def required(report: Report, say: Words) -> list[str]:
    """Return what planes need of a node."""
    rows = [
        [
            _names(each.planes),
            ", ".join(each.kernel),
            ", ".join([*each.programs, *(f"{name}.c" for name in each.objects)]),
            "; ".join(each.settings),
        ]
        for each in needs(report)
    ]
    headings = ["data planes", "kernel: modules and options", "programs", "settings that change"]
    title = f"## {say('What it needs of the node')}"
    return [title, "", *table(list(map(say, headings)), rows), ""] if rows else []
