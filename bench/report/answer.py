"""The command `bench answer`: the article's closing question, answered from the data by the rules below alone.

Could rules in the host or overlay namespace have the same effect as IPVS in every container?

- A semantic is *lost* on a plane if it holds on the plane that it is compared with, and not here, on some observed
  kernel. What does not apply here is lost, too. It is *gained* if it holds only here.
- Each semantic has a level. *Core* is what any user of a service VIP relies on, *extended* what some rely on, and
  *visible* what can be seen and no traffic depends on. `docs/semantics.md` has the levels.
- A plane has **the same effect** as another one if it loses no core and no extended semantic. It has **nearly** the
  same effect if it loses no core semantic, and else **not**.
- *Like for like*: planes with the same mechanism, the same variant and the same changes to it, at different places.
  Other knobs differ only where a place has another way back for the answers. The effect of a place, like for like, is
  that of the variant that loses least.
- *The best of a place* is its cheapest plane on which every core semantic holds, on every observed kernel.
- Cost is instructions (or CPU time) per connection and per change, compared with the reference at the same point.
  Ratios are paired within the rounds of one run, with a 95 % interval. *Of direct* and *of the limit* are ratios of
  rates, to `direct` and to `direct-short`.
- A recommendation names the planes that answer a question with yes, the cheapest first, three at most. For many
  services it names those whose cost per connection grows by less than one part in fifty from the fewest services to
  the most.
"""

from __future__ import annotations

from bench.documents import Matrix, Result
from bench.report import clocks, sections
from bench.report.costs import PER_CONNECTION, tables
from bench.report.model import Report
from bench.report.places import best
from bench.report.questions import QUESTIONS, REFERENCE, place
from bench.report.words import ENGLISH, Words
from dataplanes.selection import balances
from dataplanes.texts import code, markdown

_FLAT = 0.02
_MOST = 3


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
    lines += sections.summary(report, say)
    unobserved = [f"- {markdown(each)}" for each in report.unobserved()]
    lines += [say("Not observed, because the check ended in an error:"), "", *unobserved, ""] if unobserved else []
    for section in (
        sections.alike,
        sections.shipped,
        sections.bests,
        sections.others,
        sections.required,
        tables,
        clocks.section,
        sections.meanings,
    ):
        lines += section(report, say)
    lines += [f"## {say('Which one to choose')}", ""]
    lines += [f"| {say('situation')} | {say('planes that fit, the cheapest first')} |", "|---|---|"]
    for situation, planes in recommend(report):
        lines.append(f"| {say(situation)} | {_names(planes[:_MOST]) or say('none')} |")
    lines += ["", f"## {say('How this was derived')}", "", *_rules(say), "", *_sources(report, say), ""]
    return "\n".join(lines)


def recommend(report: Report) -> list[tuple[str, list[str]]]:
    """Return (situation, planes that fit, the cheapest first) for each question."""
    verdicts = {verdict.dataplane: verdict for verdict in report.verdicts()}

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


def choice(report: Report, say: Words = ENGLISH) -> list[str]:
    """Return which plane to choose, in a few lines for a terminal: by situation, and then the best of each place."""
    title = say("Which one to choose"), say("planes that fit, the cheapest first")
    told = [": ".join(title)]
    for situation, planes in recommend(report):
        told.append(f"  {say(situation)}: {', '.join(planes[:_MOST]) or say('none')}")
    found = [(rate.value, each) for each in best(report) if each.plane and (rate := report.rate(each.plane))]
    found.sort(key=lambda each: -each[0])
    if not found:
        return told
    heading = say("On these every core semantic holds, the best of each place first, with their rate of direct's:")
    return [*told, heading, *(f"  {say(place(each.placement))}: {each.plane} {rate:.3f}" for rate, each in found)]


def _flat(report: Report) -> set[str]:
    """Return the planes whose cost of a connection does not depend on the number of services."""
    return {
        name
        for curve in report.curves()
        if curve.axis == "services" and curve.metric in PER_CONNECTION
        for name, points in curve.planes.items()
        if balances(name) and points[-1][1].value < (1 + _FLAT) * points[0][1].value
    }


def _names(planes: list[str]) -> str:
    return ", ".join(code(name) for name in planes)


def _rules(say: Words) -> list[str]:
    text = say.rules or (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    return text.strip().splitlines()


def _sources(report: Report, say: Words) -> list[str]:
    found: list[tuple[str, Result | Matrix]] = [*report.results, *report.matrices]
    told = [f"- {markdown(name)}: {code(document.plan.get('command', ''))}" for name, document in found]
    return [say("Documents:"), "", *told]
