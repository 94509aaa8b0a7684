"""What the repository shows of its data set: the README's table and chart, docs/answer.md, a drawing per plane."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from bench.report import figures
from bench.report.model import REFERENCE, Report
from bench.report.numbers import figure, ratio
from bench.report.text import table

BEGIN, END = "<!-- results: written by bench publish -->", "<!-- end of results -->"
CHINESE: dict[str, str] = msgspec.toml.decode((Path(__file__).parent / "chinese.toml").read_text("utf-8"))
_ASKED = ("client address", "container untouched", "drain", "UDP moves")


def section(report: Report, names: dict[str, str] | None = None) -> str:
    """The README's table, by plane; `names` translates its headings."""
    told = names or {}
    headings = ["data plane", "rate, of direct", "instructions/connection", f"as {REFERENCE}", *_ASKED]
    rows = []
    for v in report.verdicts():
        same = f"{len(v.same)} same, {len(v.more)} more, {len(v.less)} less" if v.same else ""
        answers = [told.get(v.answers[name], v.answers[name]) for name in _ASKED]
        rows.append([f"`{v.dataplane}`", ratio(v.ratio), figure(v.cost), same, *answers])
    return "\n".join([BEGIN, *table([told.get(each, each) for each in headings], rows), END])


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


def write(root: Path, report: Report, answer: str) -> None:
    """Write what a checkout shows. Does nothing where there is no checkout."""
    readme = root / "README.md"
    if not readme.exists():
        return
    for path, names in ((readme, None), (root / "README.zh.md", CHINESE)):
        if path.exists():
            path.write_text(replaced(path.read_text("utf-8"), section(report, names)), "utf-8")
    (root / "docs" / "rate.svg").write_text(chart(report), "utf-8")
    (root / "docs" / "answer.md").write_text(answer, "utf-8")
