"""A comparison for a person on a terminal, as Markdown, as annotations of GitHub, and as JUnit for CI.

People see what differs; programs see everything that was compared.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.documents.comparison import CellChange, Comparison, Difference, SameCell, at, several
from bench.report.columns import table as columns
from bench.report.digits import ratio
from bench.report.terminal import console
from dataplanes.texts import clean, line
from dataplanes.texts import markdown as told

_FIGURES = ["data plane", "workload", "metric", "base", "new", "new / base [95 %]", "verdict"]
_CELLS = ["kernel", "data plane", "check", "base", "new", "verdict", "observed"]
_STYLES = {"worse": "red", "better": "green", "inconclusive": "yellow", "lost": "red", "gained": "green"}


def different(found: Comparison, *, everything: bool = False) -> list[Difference]:
    """Return the figures that differ or may differ, or all.

    An inconclusive one may differ if its medians do by more than noise: of equal runs, half of the latencies are
    inconclusive, and would hide what has changed.
    """
    return [
        each
        for each in found.differences
        if everything
        or each.verdict in ("better", "worse")
        or (each.verdict == "inconclusive" and not (each.ratio and abs(each.ratio.value - 1) <= found.noise))
    ]


def _row(each: Difference) -> list[str]:
    needed = f", {each.rounds_needed} rounds would tell" if each.rounds_needed else ""
    workload = ", ".join(filter(None, (each.workload, each.axes.label())))
    figures = (f"{each.base:,.6g}", f"{each.new:,.6g}", ratio(each.ratio) or "-", each.verdict + needed)
    return [each.dataplane, workload, each.metric, *figures]


def _cell(each: CellChange) -> list[str]:
    observed = f"{each.base_detail} -> {each.detail}" if each.what == "detail" else each.detail
    return [each.kernel, each.dataplane, each.check, each.base, each.new, each.what, observed]


def _noise(found: Comparison, shown: Sequence[Difference]) -> str:
    hidden = len(found.differences) - len(shown)
    more = f"; {several(hidden, 'figure')} within noise: --all shows them" if hidden else ""
    return f"noise threshold {found.noise:.1%}; ratios of medians, 95 % bootstrap over rounds{more}"


# -- on a terminal -----------------------------------------------------------------------------------------------------


def show(comparisons: Sequence[Comparison], *, everything: bool = False) -> None:
    """Print the comparisons on stdout."""
    for found in comparisons:
        _print(console(), found, everything)


def table(comparisons: Sequence[Comparison], *, everything: bool = False) -> str:
    """Return what `show` prints where there is no terminal."""
    written = io.StringIO()
    for found in comparisons:
        _print(console(file=written), found, everything)
    return written.getvalue()


def _print(out: Console, found: Comparison, everything: bool) -> None:
    """Print the comparison of one document: first the reasons for doubt, last the failures."""
    for warning in found.warnings:
        out.print(Text(f"warning: {warning}", style="yellow"))
    if figures := different(found, everything=everything):
        out.print(_differences(found.name, figures))
    if found.differences:
        out.print(Text(_noise(found, figures), style="dim"))
    if found.changes:
        out.print(_changes(found.name, found.changes))
    for each in found.added:
        out.print(Text(f"only in {found.name}: {each}", style="dim"))
    for failure in found.failures:
        out.print(Text(failure, style="red"), soft_wrap=True)


def _differences(name: str, differences: Sequence[Difference]) -> Table:
    made = Table(title=Text(name), title_justify="left")
    for heading in _FIGURES:
        numeric = heading not in _FIGURES[:3]
        widest = len("inconclusive,") if heading == _FIGURES[-1] else None
        made.add_column(heading, justify="right" if numeric else "left", no_wrap=not numeric, min_width=widest)
    for each in differences:
        made.add_row(*_row(each), style=_STYLES.get(each.verdict))
    return made


def _changes(name: str, changes: Sequence[CellChange]) -> Table:
    made = Table(*_CELLS, title=Text(name), title_justify="left")
    for each in changes:
        made.add_row(*map(Text, _cell(each)), style=_STYLES.get(each.what))
    return made


# -- as documents ------------------------------------------------------------------------------------------------------


def markdown(comparisons: Sequence[Comparison], verdict: str, *, everything: bool = False) -> str:
    """Return the comparisons as Markdown. The verdict is the first line, because a comment is read from its top."""
    parts = [f"**{told(verdict)}**", ""]
    for found in comparisons:
        parts += [f"### {told(found.name)}: {found.tally()}", ""]
        lines = [*found.failures, *(f"warning: {each}" for each in found.warnings)]
        lines += [f"only in {found.name}: {each}" for each in found.added]
        parts += [*(f"- {told(each)}" for each in lines), *([""] if lines else [])]
        if figures := different(found, everything=everything):
            parts += [*columns(_FIGURES, list(map(_row, figures))), "", _noise(found, figures), ""]
        if found.changes:
            parts += [*columns(_CELLS, list(map(_cell, found.changes))), ""]
    return "\n".join(parts)


def github(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield workflow commands, which GitHub shows as annotations: errors for failures, notices for what is better."""
    for found in comparisons:
        yield from (_command("error", found.name, each) for each in found.failures)
        yield from (_command("warning", found.name, each) for each in found.warnings)
        yield from (_command("notice", found.name, f"only in {found.name}: {each}") for each in found.added)
        differ: list[tuple[str, str]] = [(each.verdict, f"{each.name()} {each.change()}") for each in different(found)]
        differ += [(each.what, f"{each.name()} {each.change()}") for each in found.changes]
        yield from (
            _command("notice", found.name, f"{what}: {text}") for what, text in differ if text not in found.failures
        )


def _command(kind: str, title: str, text: str) -> str:
    """Return a workflow command. Its parts are separated by characters that a text must not have (actions/toolkit)."""
    text, title = (line(each).replace("%", "%25") for each in (text, title))
    return f"::{kind} title={title.replace(':', '%3A').replace(',', '%2C')}::{text}"


def junit(comparisons: Sequence[Comparison]) -> bytes:
    """Return JUnit XML: a suite per document, and a case per compared figure, compared semantic and other failure."""
    root = ET.Element("testsuites", name="bench compare")
    for found in comparisons:
        suite = ET.SubElement(root, "testsuite", name=clean(found.name))
        left = list(found.failures)
        compared: list[Difference | CellChange] = [*found.differences, *found.changes]
        for each in compared:
            case = ET.SubElement(suite, "testcase", classname=_class(each), name=clean(each.name()))
            failures = [failure for failure in left if failure.startswith(f"{each.name()} ")]
            left = [failure for failure in left if failure not in failures]
            for failure in failures[:1]:
                ET.SubElement(case, "failure", message=clean(failure))
            what = each.verdict if isinstance(each, Difference) else each.what
            ET.SubElement(case, "system-out").text = clean(f"{what}: {each.change()}")
        for same in found.unchanged:
            case = ET.SubElement(suite, "testcase", classname=_class(same), name=clean(same.name()))
            ET.SubElement(case, "system-out").text = f"same: {same.outcome}"
        for failure in left:
            case = ET.SubElement(suite, "testcase", classname=clean(found.name), name=clean(failure))
            ET.SubElement(case, "failure", message=clean(failure))
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _class(each: Difference | CellChange | SameCell) -> str:
    if isinstance(each, Difference):
        return clean(f"{each.dataplane}.{at(each.workload, each.axes.label())}")
    return clean(f"{each.kernel}.{each.dataplane}")
