"""The commands that read documents and need no kernel: compare, report, answer; and publish, which makes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click
import msgspec

from bench.options import output_writer
from dataplanes.errors import Usage


@click.command()
@click.argument("base")
@click.argument("new", nargs=-1, required=True)
@click.option("--fail-on", default="", metavar="METRIC:-5%[,...]", help="Exit 1 if a metric changed at least so much.")
@click.option(
    "--noise", type=click.FloatRange(0, 50), metavar="PERCENT", help="Default: 0.5 by instructions, 3 by wall."
)
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
def compare(base: str, new: tuple[str, ...], fail_on: str, noise: float | None, as_json: bool) -> None:
    """Compare result documents: each metric's change, its interval, and better, worse, same or inconclusive."""
    from bench import compare as comparing
    from bench import judge, table

    rules = comparing.parse_rules(fail_on)
    reference = comparing.load(base)
    broken = False
    for path in new:
        result = comparing.load(path)
        threshold = judge.NOISE[reference.environment["clock"]] if noise is None else noise / 100
        differences = comparing.compare(reference, result, threshold)
        broken = broken or any(rule.broken_by(each) for rule in rules for each in differences)
        if as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(differences), indent=1))
        else:
            table.show_differences(path, differences, comparing.warnings(reference, result), threshold)
    sys.exit(1 if broken else 0)


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--output", "-o", metavar="FILE", help="Write .html, .md, .csv or .json; - is Markdown on stdout.")
def report(files: tuple[str, ...], output: str | None) -> None:
    """One page from any set of result and matrix documents: cost, scale, correctness, with the data in it."""
    from bench.report import model, text

    writers: dict[str, Callable[[model.Report], bytes]] = {
        ".html": _page,
        ".md": lambda found: text.markdown(found).encode(),
        ".csv": lambda found: text.flat(found).encode(),
        ".json": text.merged,
    }
    kind = os.path.splitext(output or "-")[1] or ".md"
    if kind not in writers:
        raise Usage(f"cannot write {kind}", where=output or "", fix=f"one of {', '.join(writers)}")
    found = model.load(files)
    write = output_writer(output or "-")
    write(writers[kind](found))


def _page(found: Any) -> bytes:
    from bench.report.page import page  # matplotlib and jinja2 take a second to load

    return page(found).encode()


@click.command()
@click.argument("files", nargs=-1)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", help="Default: en.")
@click.option("--output", "-o", default="-", metavar="FILE", help="Write the Markdown there; - is stdout.")
def answer(files: tuple[str, ...], language: str, output: str) -> None:
    """The closing question, answered from documents (by default the published ones): who has the same effect, at what
    cost."""
    from bench.report import answer as answering
    from bench.report import model, words

    found = model.load(files or model.published())
    write = output_writer(output)
    write(answering.answer(found, words.LANGUAGES[language]).encode())


@click.command()
@click.argument("directory", default="results", type=click.Path(file_okay=False))
def publish(directory: str) -> None:
    """Make the data set in DIRECTORY: matrix, connections, scale, drawings; then report and answer from it."""
    from pathlib import Path

    from bench import publish as publishing
    from bench.report import answer, model, pages

    publishing.publish(Path(directory), lambda line: click.echo(f"bench: {line}", err=True))
    found = model.load(publishing.documents(Path(directory)))
    (Path(directory) / "report.html").write_bytes(_page(found))
    (Path(directory) / "answer.md").write_text(answer.answer(found), "utf-8")
    if Path(directory).resolve() == model.PUBLISHED:
        pages.write(model.PUBLISHED.parent, found)
