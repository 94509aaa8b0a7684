"""`bench answer`: the document's closing question, answered from the data by the rules below, and by nothing else.

Could rules in the host or overlay namespace have the same effect as IPVS in every container?

- *Same effect* of a placement: a check has the outcome it has with the reference, on every kernel observed. What holds
  there and not here is what is lost; what holds here and not there is what is gained.
- The best plane of a placement is the one that loses least; of equals the one that gains most, then the cheaper one.
- A placement **has the same effect** when its best plane loses nothing; **nearly**, when it loses at most one check in
  twenty of those that hold there; else **not**.
- Cost is instructions (or CPU time) per connection and per change, against the reference at the same point.
- A recommendation names the planes that answer a question with yes, the cheapest first, at most three; for many
  services those whose cost per connection grows by less than one part in fifty from the fewest to the most measured.
"""

from __future__ import annotations

from msgspec import Struct

from bench.documents import Interval
from bench.numbers import number
from bench.report.model import QUESTIONS, REFERENCE, Report, Verdict
from bench.report.words import ENGLISH, Words
from dataplanes import catalog
from scenarios.axes import Axes

_NEARLY = 0.05
_FLAT = 0.02
_MOST = 3
_SERVICES = (1, 100, 1000)
_CONTAINERS = (1, 10, 100)


class Placement(Struct, frozen=True):
    """What is said of a placement: its planes, the best of them, and whether that has the same effect."""

    name: str
    planes: list[str]
    best: Verdict
    effect: str  # "the same effect", "nearly the same effect", "not the same effect"


def placements(report: Report) -> list[Placement]:
    """Every placement but the reference's own, best first."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in report.verdicts():
        if verdict.same and "@" not in verdict.dataplane:
            groups.setdefault(catalog.placement(verdict.dataplane), []).append(verdict)
    made = []
    for name, verdicts in groups.items():
        best = min(verdicts, key=lambda v: (len(v.less), -len(v.more), v.cost.value if v.cost else 0))
        if best.dataplane != REFERENCE:
            made.append(Placement(name, [v.dataplane for v in verdicts], best, _effect(report, best)))
    return sorted(made, key=lambda each: (len(each.best.less), -len(each.best.more)))


def _effect(report: Report, verdict: Verdict) -> str:
    holds = {cell.check for cell in report.cells() if cell.dataplane == REFERENCE and cell.outcome == "pass"}
    if not verdict.less:
        return "the same effect"
    return "nearly the same effect" if len(verdict.less) <= _NEARLY * len(holds) else "not the same effect"


def recommend(report: Report) -> list[tuple[str, list[str]]]:
    """(situation, planes that fit, the cheapest first) per question."""
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
    """The planes whose connections cost the same however many services there are."""
    return {
        name
        for curve in report.curves()
        if curve.axis == "services" and curve.metric in _PER_CONNECTION
        for name, points in curve.planes.items()
        if name != catalog.DIRECT and points[-1][1].value < (1 + _FLAT) * points[0][1].value
    }


def answer(report: Report, say: Words = ENGLISH) -> str:
    """The answer as Markdown."""
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
    found = placements(report)
    lines += _short(report, found, say)
    for each in found:
        lines += _placement(report, each, say)
    lines += _cost(report, say)
    lines += [f"## {say('Which one to choose')}", ""]
    lines += [f"| {say('situation')} | {say('planes that fit, the cheapest first')} |", "|---|---|"]
    for situation, planes in recommend(report):
        lines.append(f"| {say(situation)} | {_names(planes[:_MOST]) or say('none')} |")
    lines += ["", f"## {say('How this was derived')}", "", *_rules(say), "", *_sources(report, say), ""]
    return "\n".join(lines)


def _short(report: Report, found: list[Placement], say: Words) -> list[str]:
    """The answer in a table: a line per placement."""
    costs = {verdict.dataplane: verdict.cost for verdict in report.verdicts()}
    base = costs.get(REFERENCE)
    headings = ["placement", "effect", "best plane", "lost", "gained", "cost of a connection"]
    lines = [f"| {' | '.join(map(say, headings))} |", "|---|---|---|---:|---:|---:|"]
    for each in found:
        best, cost = each.best, costs.get(each.best.dataplane)
        saved = f"{cost.value / base.value:.2f}x" if cost and base else ""
        cells = [each.name, say(each.effect), _names([best.dataplane]), str(len(best.less)), str(len(best.more)), saved]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _placement(report: Report, each: Placement, say: Words) -> list[str]:
    best = each.best
    lines = [
        f"## {say('{placement}: {effect}', placement=each.name, effect=say(each.effect))}",
        "",
        say(
            "{best}, the best of {planes}: {same} semantics are as with `{reference}`, {more} hold here only, {less} "
            "hold there only.",
            best=_names([best.dataplane]),
            planes=_names(each.planes),
            reference=REFERENCE,
            same=len(best.same),
            more=len(best.more),
            less=len(best.less),
        ),
        "",
    ]
    statements = {check: say.check(check, statement) for check, statement in report.checks().items()}
    if best.less:
        lost = [f"- {check}: {statements[check]} {_reason(report, best.dataplane, check, say)}" for check in best.less]
        lines += [say("Lost:"), "", *lost, ""]
    if best.more:
        lines += [say("Gained:"), "", *(f"- {check}: {statements[check]}" for check in best.more), ""]
    hidden = [say(check.partition(".")[2]) for check in best.more if check.startswith("visible.")]
    if hidden:
        lines += [say("The application no longer sees: {what}.", what=", ".join(hidden)), ""]
    return lines


def _names(planes: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in planes)


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


_PER_CONNECTION = ("instructions_per_connection", "cpu_us_per_connection")


def _table(
    report: Report, workload: str, metrics: tuple[str, ...], axis: str, values: tuple[int, ...], say: Words
) -> list[str]:
    """Planes against an axis; beside each figure what it is of the reference's."""
    columns: dict[int, dict[str, Interval]] = {}
    for name, at in report.workloads():
        others = all(getattr(at, each) == getattr(Axes(), each) for each in Axes.__struct_fields__ if each != axis)
        swept = axis == "services" or workload == "crr"
        if name == workload and getattr(at, axis) in values and (others or not swept):
            rows = report.rows(workload, at)
            figures = {n: row.metrics[m] for n, (row, _) in rows.items() for m in metrics if m in row.metrics}
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
            lines.append(f"| {name} | {' | '.join(cells)} |")
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
    told = [f"- {name}: `{document.plan.get('command', '')}`" for name, document in report.results]
    told += [f"- {name}: `{document.plan.get('command', '')}`" for name, document in report.matrices]
    return [say("Documents:"), "", *told]
