"""The commands that read documents and need no kernel (compare, report, answer), and publish, which makes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from bench import api
from bench.cli import completion
from bench.cli.options import NumberRange, cluster_option, jobs_option, output_writer
from bench.report import terminal
from dataplanes import files
from dataplanes.errors import Usage

if TYPE_CHECKING:
    from bench.documents.comparison import Comparison, Comparisons


@click.command()
@click.argument("base")
@click.argument("new", nargs=-1, required=True)
@click.option(
    "--fail-on",
    default="",
    metavar="METRIC:-5%|VERDICT[,...]",
    shell_complete=completion.rules,
    help="Fail if a metric changed by so much or more, for example connections_per_second:-2%, or if a figure is worse,"
    " better or inconclusive, or if a semantic is gained or changed, or its observation (detail). A lost one always"
    " fails.",
)
@click.option(
    "--allow",
    default="",
    metavar="WHAT[,WHAT]",
    help="Compare although these differ: kernel, clock, scenario, variant.",
)
@click.option(
    "--noise",
    type=NumberRange(0, 50),
    metavar="PERCENT",
    help="Take smaller changes for noise; 0 to 50, by default 0.5 by instructions and 3 by wall.",
)
@click.option("--all", "everything", is_flag=True, help="Show the figures that are the same, too.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "github", "markdown", "json", "junit"]),
    default="table",
    show_default=True,
    help="Print a table, annotations of GitHub, Markdown, JSON or JUnit XML.",
)
@click.option("--json", "form", flag_value="json", help="Print JSON, as --format json does.")
@click.option("--output", "-o", metavar="FILE", help="Write to FILE, and print only the last line.")
def compare(
    base: str,
    new: tuple[str, ...],
    fail_on: str,
    allow: str,
    noise: float | None,
    everything: bool,
    form: str,
    output: str | None,
) -> None:
    """Compare results, matrices, or folders of both.

    A figure is better, worse, same or inconclusive; a semantic is gained, lost or changed.
    The exit code is 1 if NEW lacks what BASE has, if a semantic is lost, or if --fail-on says so. The last line tells
    which. It is on stderr if the output is a document. Of two folders, documents with the same name are compared.
    """
    from bench.analysis import gate
    from bench.report import comparing

    rules, allowed = gate.parse_rules(fail_on), gate.parse_allowed(allow)
    write = output_writer(output or "-")
    found = gate.decide_all(base, new, rules, allowed=allowed, noise=None if noise is None else noise / 100)
    verdict = gate.verdict(found)
    documents: dict[str, Callable[[], bytes]] = {
        "json": lambda: api.encoded(_comparisons(base, found, verdict)),
        "junit": lambda: comparing.junit(found) + b"\n",
        "markdown": lambda: comparing.markdown(found, verdict, everything=everything).encode(),
        "github": lambda: "".join(f"{each}\n" for each in comparing.github(found)).encode(),
        "table": lambda: comparing.table(found, everything=everything).encode(),
    }
    if form == "table" and not output:
        comparing.show(found, everything=everything)
    else:
        write(documents[form]())
    terminal.say(verdict, err=not output and form in ("json", "junit", "markdown"))
    sys.exit(1 if any(each.failures for each in found) else 0)


def _comparisons(base: str, found: list[Comparison], verdict: str) -> Comparisons:
    from bench.documents.comparison import Comparisons
    from bench.documents.metrics import units
    from bench.outside import provenance

    told = {difference.metric for each in found for difference in each.differences}
    return Comparisons(provenance.tool(), base, found, verdict, units(told))


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write .html, .md, .csv, .parquet or .json. By default, and with -, it is Markdown on stdout.",
)
def report(files: tuple[str, ...], output: str | None) -> None:
    """Make one page of cost, scale and correctness from any set of result and matrix documents."""
    from bench.report import model, text

    writers: dict[str, Callable[[model.Report], bytes]] = {
        ".html": _page,
        ".md": lambda found: text.markdown(found).encode(),
        ".csv": lambda found: text.tidy_csv(found).encode(),
        ".parquet": _parquet,
        ".json": text.merged,
    }
    made = _by_ending(writers, output)
    found = model.load(files)
    write = output_writer(output or "-")
    write(made(found))


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--metric",
    default="",
    metavar="METRIC[,METRIC]",
    shell_complete=completion.listed("metrics", several=True),
    help="Follow these figures. By default they are each workload's rate and the cost of one operation.",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Write .html, .md or .json. By default, and with -, it is Markdown on stdout.",
)
def history(directory: str, metric: str, output: str | None) -> None:
    """Follow figures and semantics over all documents of DIRECTORY, in the order of their names.

    It tells from which document on a figure has another level, and what else differs there. The last line sums it up.
    """
    from bench.analysis import history as analysis
    from bench.documents.metrics import METRICS
    from bench.outside import provenance

    wanted = [each.strip() for each in metric.split(",") if each.strip()]
    if unknown := [each for each in wanted if each not in METRICS]:
        raise Usage(f"unknown metric {unknown[0]!r}", fix="`bench list metrics` shows them")
    writers: dict[str, Callable[[Any], bytes]] = {
        ".html": _history_page,
        ".md": _history_text,
        ".json": api.encoded,
    }
    made = _by_ending(writers, output)
    write = output_writer(output or "-")
    found = analysis.history(analysis.folder(directory), provenance.tool(), wanted)
    write(made(found))
    terminal.say(found.verdict, err=output == "-")


def _by_ending(writers: Mapping[str, Callable[[Any], bytes]], output: str | None) -> Callable[[Any], bytes]:
    """Return the writer for a file's ending; that of Markdown for stdout. Raises Usage for an unknown ending."""
    kind = os.path.splitext(output or "-")[1] or ".md"
    if kind not in writers:
        raise Usage(f"cannot write {kind}", where=output or "", fix=f"one of {', '.join(writers)}")
    return writers[kind]


def _history_page(found: Any) -> bytes:
    from bench.report.history import page

    return page(found).encode()


def _history_text(found: Any) -> bytes:
    from bench.report.history import markdown

    return markdown(found).encode()


def _parquet(found: Any) -> bytes:
    from bench.report import text

    return api.parquet(api.frame(list(text.tidy_rows(found)), text.TIDY))


def _page(found: Any) -> bytes:
    from bench.report.page import page  # jinja2 takes a moment to load

    return page(found).encode()


@click.command()
@click.argument("files", nargs=-1)
@click.option(
    "--language", type=click.Choice(["en", "zh"]), default="en", help="Choose the language. The default is en."
)
@click.option("--output", "-o", default="-", metavar="FILE", help="Write the Markdown to FILE; - is stdout.")
def answer(files: tuple[str, ...], language: str, output: str) -> None:
    """Answer the article's closing question from documents: which places have the same effect, and at what cost.

    Without FILES it is answered from the published data. The last lines tell which plane to choose. They are on stderr
    if the document is on stdout.
    """
    from bench.report import answer as answering
    from bench.report import model, words

    found, say = model.load(files or model.published()), words.LANGUAGES[language]
    write = output_writer(output)
    write(answering.answer(found, say).encode())
    for line in answering.choice(found, say):
        terminal.say(line, err=output == "-")


@click.command()
@jobs_option
@cluster_option
@click.argument("directory", default="results", type=click.Path(file_okay=False))
def publish(directory: str, jobs: int | None, cluster: str | None) -> None:
    """Make the data set in DIRECTORY (matrix, connections, scale, drawings), and the report and the answer from it."""
    from pathlib import Path

    from bench.outside import publish as publishing
    from bench.report import answer, model, pages

    tell: Callable[[str], None] = lambda line: terminal.say(f"bench: {line}", err=True)  # noqa: E731
    publishing.publish(Path(directory), tell, api.runnable, jobs, cluster)
    found = model.load(publishing.documents(Path(directory)))
    files.write(Path(directory, "report.html"), _page(found))
    files.write(Path(directory, "answer.md"), answer.answer(found).encode())
    if Path(directory).resolve() == model.PUBLISHED:
        pages.write(model.PUBLISHED.parent, found)
