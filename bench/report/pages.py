"""What the repository shows of its data set: the README's table and chart, docs/answer.md, a drawing per plane."""

from __future__ import annotations

import re
from pathlib import Path

from bench.numbers import figure, ratio
from bench.report import figures
from bench.report.answer import answer
from bench.report.model import REFERENCE, Report
from bench.report.text import table
from bench.report.words import CHINESE, ENGLISH, Words

BEGIN, END = "<!-- results: written by bench publish -->", "<!-- end of results -->"
_ASKED = ("client address", "container untouched", "drain", "UDP moves")


def section(report: Report, say: Words = ENGLISH) -> str:
    """The README's table, by plane."""
    headings = ["data plane", "rate, of direct", "instructions per connection", *_ASKED]
    told = [say(each) for each in headings]
    told.insert(3, say("as {reference}", reference=REFERENCE))
    rows = []
    for v in report.verdicts():
        counts = {"same": len(v.same), "more": len(v.more), "less": len(v.less)}
        same = say("{same} same, {more} more, {less} less", **counts) if v.same else ""
        answers = [say(v.answers[name]) for name in _ASKED]
        rows.append([f"`{v.dataplane}`", ratio(v.ratio), figure(v.cost), same, *answers])
    return "\n".join([BEGIN, *table(told, rows), END])


def replaced(page: str, made: str) -> str:
    """A page with its section of results written anew."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, page, flags=re.S)


def chart(report: Report) -> str:
    """Connections per second of every plane as ratios to direct; a file of its own, on white."""
    ratios = {v.dataplane: v.ratio for v in report.verdicts() if v.ratio}
    drawn = figures.bars(
        "Connections per second, ratio to direct", "connections/s, ratio to direct", ratios, report.planes()
    )
    paper = drawn.replace("currentColor", "#1a1a1a").replace("<svg ", '<svg style="background:#fff" ', 1)
    return paper.rstrip() + "\n"


def write(root: Path, report: Report) -> None:
    """Write what a checkout shows. Does nothing where there is no checkout."""
    if not (root / "README.md").exists():
        return
    for path, told in pages(root, report).items():
        path.write_text(told, "utf-8")


def pages(root: Path, report: Report) -> dict[Path, str]:
    """What a checkout shows of its data set: every page and drawing as it should be."""
    made = {root / "docs" / "rate.svg": chart(report)}
    for suffix, say in (("", ENGLISH), (".zh", CHINESE)):
        readme = root / f"README{suffix}.md"
        made[readme] = replaced(readme.read_text("utf-8"), section(report, say))
        made[root / "docs" / f"answer{suffix}.md"] = answer(report, say)
    return made
