"""The command `bench answer`: the article's closing question, answered from the data by the rules below alone.

Could rules in the host or overlay namespace have the same effect as IPVS in every container?

- *Same effect* of a plane: a check has the same outcome as with the reference, on every observed kernel. A check that
  holds there and not here is lost. A check that holds here and not there is gained.
- The best plane of a placement is the one that loses least; among equals the one that gains most, and then the cheaper
  one.
- A plane **has the same effect** if it loses nothing. It has **nearly** the same effect if it loses at most one in
  twenty of the checks that hold there, and else **not**. A placement's effect is that of its best plane.
- Cost is instructions (or CPU time) per connection and per change, compared with the reference at the same point.
- A recommendation names the planes that answer a question with yes, the cheapest first, three at most. For many
  services it names those whose cost per connection grows by less than one part in fifty from the fewest services to
  the most.
"""

from __future__ import annotations

from msgspec import Struct

from bench.documents import Interval, Matrix, Result
from bench.documents.overview import PlaneOverview
from bench.documents.workloads import WORKLOADS
from bench.report.digits import number
from bench.report.model import QUESTIONS, REFERENCE, Report
from bench.report.words import ENGLISH, Words
from dataplanes.selection import balances
from dataplanes.texts import code, markdown
from scenarios.axes import Axes

_ASKED = ("overlay", "host")  # the placements that the question asks about
_NEARLY = 0.05
_FLAT = 0.02
_MOST = 3
_SERVICES = (1, 100, 1000)
_CONTAINERS = (1, 10, 100)


class Standing(Struct, frozen=True):
    """A plane and its verdict: whether it has the same effect."""

    verdict: PlaneOverview
    effect: str  # "the same effect", "nearly the same effect", "not the same effect"

    @property
    def name(self) -> str:
        """The name of the data plane."""
        return self.verdict.dataplane


class Ranking(Struct, frozen=True):
    """A placement's planes, the best first. The best one's effect is the placement's."""

    name: str
    planes: list[Standing]

    @property
    def best(self) -> Standing:
        """The standing of the best data plane of the placement."""
        return self.planes[0]


def rankings(report: Report) -> list[Ranking]:
    """Return every placement with its planes, the best first. The reference is compared with nothing."""
    groups: dict[str, list[Standing]] = {}
    for verdict in sorted(report.verdicts(), key=_rank):
        if verdict.same and "@" not in verdict.dataplane and verdict.dataplane != REFERENCE:
            standing = Standing(verdict, _effect(report, verdict))
            groups.setdefault(report.placement(verdict.dataplane), []).append(standing)
    return [Ranking(name, planes) for name, planes in groups.items()]


def _rank(verdict: PlaneOverview) -> tuple[float, ...]:
    return (len(verdict.less), -len(verdict.more), verdict.cost.value if verdict.cost else 0)


def _effect(report: Report, verdict: PlaneOverview) -> str:
    holds = {cell.check for cell in report.cells() if cell.dataplane == REFERENCE and cell.outcome == "pass"}
    if not verdict.less:
        return "the same effect"
    return "nearly the same effect" if len(verdict.less) <= _NEARLY * len(holds) else "not the same effect"


def recommend(report: Report) -> list[tuple[str, list[str]]]:
    """Return (situation, planes that fit, the cheapest first) for each question."""
    verdicts = {verdict.dataplane: verdict for verdict in report.verdicts() if "@" not in verdict.dataplane}

    def cost(name: str) -> tuple[float, int]:
        found = verdicts[name]
        return (found.cost.value if found.cost else float("inf"), len(found.less))

    flat = _flat(report)
    return [
        *([("There are many services", sorted((n for n in verdicts if n in flat), key=cost))] if flat else []),
        *(
            (
                question.situation,
                sorted((n for n, v in verdicts.items() if v.answers[question.name] == "yes"), key=cost),
            )
            for question in QUESTIONS
        ),
    ]


def _flat(report: Report) -> set[str]:
    """Return the planes whose cost of a connection does not depend on the number of services."""
    return {
        name
        for curve in report.curves()
        if curve.axis == "services" and curve.metric in _PER_CONNECTION
        for name, points in curve.planes.items()
        if balances(name) and points[-1][1].value < (1 + _FLAT) * points[0][1].value
    }


def answer(report: Report, say: Words = ENGLISH) -> str:
    """Return the answer as Markdown."""
    lines = [
        f"# {say('Could rules in the host or overlay namespace have the same effect?')}",
        "",
        say(
            "Swarm programs IPVS in every container (`{reference}`). Each other placement against that, by the rules "
            "at the end; every statement follows from the documents named there.",
            reference=REFERENCE,
        ),
        "",
    ]
    found = rankings(report)
    lines += _short(report, found, say)
    for each in found:
        lines += _ranking(report, each, say)
    lines += _cost(report, say)
    lines += [f"## {say('Which one to choose')}", ""]
    lines += [f"| {say('situation')} | {say('planes that fit, the cheapest first')} |", "|---|---|"]
    for situation, planes in recommend(report):
        lines.append(f"| {say(situation)} | {_names(planes[:_MOST]) or say('none')} |")
    lines += ["", f"## {say('How this was derived')}", "", *_rules(say), "", *_sources(report, say), ""]
    return "\n".join(lines)


def _short(report: Report, found: list[Ranking], say: Words) -> list[str]:
    """Return the answer to the question itself, and then a line per plane."""
    asked = [each for each in found if each.name in _ASKED]
    said = [f"**{say('{placement}: {effect}', placement=each.name, effect=say(each.best.effect))}**" for each in asked]
    base = next((verdict.cost for verdict in report.verdicts() if verdict.dataplane == REFERENCE), None)
    headings = ["placement", "data plane", "effect", "lost", "gained", "cost of a connection"]
    lines = [" · ".join(said), "", f"| {' | '.join(map(say, headings))} |", "|---|---|---|---:|---:|---:|"]
    for placement in found:
        for each in placement.planes:
            lost, gained, cost = len(each.verdict.less), len(each.verdict.more), each.verdict.cost
            told = f"{cost.value / base.value:.2f}x" if cost and base else ""
            where = placement.name if each is placement.best else ""
            lines.append(f"| {where} | {code(each.name)} | {say(each.effect)} | {lost} | {gained} | {told} |")
    lines.append("")
    return lines + _listed(say("Not observed, because the check ended in an error:"), report.unobserved())


def _ranking(report: Report, each: Ranking, say: Words) -> list[str]:
    """Return the best plane in full, and the others compared with it."""
    best = each.best.verdict
    lines = [f"## {say('{placement}: {effect}', placement=each.name, effect=say(each.best.effect))}", ""]
    lines += [_count(each.best, say), ""]
    lines += _listed(say("Lost:"), _statements(report, best.less, say, lost_by=best.dataplane))
    lines += _listed(say("Gained:"), _statements(report, best.more, say))
    hidden = [say(check.partition(".")[2]) for check in best.more if check.startswith("visible.")]
    if hidden:
        lines += [say("The application no longer sees: {what}.", what=", ".join(hidden)), ""]
    for other in each.planes[1:]:
        name, seen = other.name, other.verdict
        lost, kept = _without(seen.less, best.less), _without(best.less, seen.less)
        missed, won = _without(best.more, seen.more), _without(seen.more, best.more)
        lines += [_count(other, say) + " " + say("Against `{best}`:", best=best.dataplane), ""]
        lines += _listed(say("Lost besides:"), _statements(report, lost, say, lost_by=name))
        lines += _listed(say("Not lost:"), _statements(report, kept, say))
        lines += _listed(say("Not gained:"), _statements(report, missed, say))
        lines += _listed(say("Gained besides:"), _statements(report, won, say))
    return lines


def _count(each: Standing, say: Words) -> str:
    return say(
        "`{plane}`: {same} semantics are as with `{reference}`, {more} hold here only, {less} hold there only.",
        plane=each.name,
        reference=REFERENCE,
        same=len(each.verdict.same),
        more=len(each.verdict.more),
        less=len(each.verdict.less),
    )


def _without(checks: list[str], others: list[str]) -> list[str]:
    return [check for check in checks if check not in others]


def _listed(title: str, items: list[str]) -> list[str]:
    return [title, "", *(f"- {markdown(item)}" for item in items), ""] if items else []


def _statements(report: Report, checks: list[str], say: Words, *, lost_by: str = "") -> list[str]:
    """Return the statement of each check, and the reason why the plane lost it."""
    statements = report.checks()
    reasons = [f" {_reason(report, lost_by, check, say)}" if lost_by else "" for check in checks]
    return [f"{c}: {say.statement(c, statements[c])}{why}" for c, why in zip(checks, reasons, strict=True)]


def _names(planes: list[str]) -> str:
    return ", ".join(code(name) for name in planes)


def _reason(report: Report, plane: str, check: str, say: Words) -> str:
    cells = [c for c in (report.cell(k, plane, check) for k in report.kernels()) if c and c.outcome == "fail"]
    why = "; ".join(say.reason(reason) for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason))
    return f"*{why}*" if why else say("Seen: {detail}", detail=cells[0].detail)


def _cost(report: Report, say: Words) -> list[str]:
    lines = []
    for title, workload, metrics, axis, values in (
        ("A connection, with more services", "crr", _PER_CONNECTION, "services", (0, *_SERVICES)),
        ("A connection, with more containers on every node", "crr", _PER_CONNECTION, "containers", (0, *_CONTAINERS)),
        ("A connection that uses no VIP, with more services", "others", _PER_CONNECTION, "services", (0, *_SERVICES)),
        ("One service more, ms", "program", ("add_service_ms",), "services", _SERVICES),
        ("One service more, ms, by containers per node", "program", ("add_service_ms",), "containers", _CONTAINERS),
        ("One container more, ms", "program", ("join_ms",), "services", _SERVICES),
    ):
        table = _table(report, workload, metrics, axis, values, say)
        if table:
            lines += [f"### {say(title)}", "", *table, ""]
    return [f"## {say('What it costs or saves')}", "", *lines] if lines else []


_PER_CONNECTION = WORKLOADS["crr"].costs


def _table(
    report: Report, workload: str, metrics: tuple[str, ...], axis: str, values: tuple[int, ...], say: Words
) -> list[str]:
    """Return a table of planes against an axis. Beside each figure is its ratio to the reference's."""
    columns: dict[int, dict[str, Interval]] = {}
    for name, at in report.workloads():
        others = all(getattr(at, each) == getattr(Axes(), each) for each in Axes.__struct_fields__ if each != axis)
        swept = axis == "services" or workload == "crr"
        if name == workload and getattr(at, axis) in values and (others or not swept):
            rows = report.rows(workload, at)
            figures = {n: row.figures[m] for n, (row, _) in rows.items() for m in metrics if m in row.figures}
            if figures:
                columns[getattr(at, axis)] = figures
    if not columns:
        return []
    used = sorted(columns)
    lines = [
        f"| {say('data plane')} | {' | '.join(f'{value:,}' for value in used)} |",
        "|---" + "|---:" * len(used) + "|",
    ]
    for name in report.planes():
        cells = [_against(columns[value], name) for value in used]
        if any(cells):
            lines.append(f"| {markdown(name)} | {' | '.join(cells)} |")
    return lines


def _against(figures: dict[str, Interval], name: str) -> str:
    if name not in figures:
        return ""
    base = figures.get(REFERENCE)
    share = f" ({figures[name].value / base.value:.2f}x)" if base and base.value and name != REFERENCE else ""
    return number(figures[name].value) + share


def _rules(say: Words) -> list[str]:
    text = say.rules or (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    return text.strip().splitlines()


def _sources(report: Report, say: Words) -> list[str]:
    found: list[tuple[str, Result | Matrix]] = [*report.results, *report.matrices]
    told = [f"- {markdown(name)}: {code(document.plan.get('command', ''))}" for name, document in found]
    return [say("Documents:"), "", *told]
