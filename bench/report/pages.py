"""The pages that show the repository's data: the README's parts, docs/answer.md, the specification, drawings."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import msgspec
from rich.console import RenderableType

from bench.analysis import gate, predict
from bench.documents import Matrix, Result, reading
from bench.documents.prediction import AskedSize
from bench.report import matrix_table, mutants, peers, picture, prediction, semantics, terminal
from bench.report import result_table as run_table
from bench.report.answer import answer, choice
from bench.report.model import Report
from bench.report.short import short
from bench.report.words import CHINESE, ENGLISH, Words
from dataplanes import catalog, files
from dataplanes.selection import title
from dataplanes.texts import markdown

BEGIN, END = "<!-- results: written by bench publish -->", "<!-- end of results -->"


def section(report: Report, drawing: str, say: Words = ENGLISH) -> str:
    """Return the README's short answer: the sentences, and the picture if the data have one."""
    found = short(report, say)
    told = [f"- {markdown(each)}" for each in found.sentences] if found else []
    return "\n".join([BEGIN, *told, *(["", f"![{picture.title(say)}]({drawing})"] if drawing else []), END])


_ELLIPSIS = "...\n"
"""It stands for the lines before the last ones."""


def examples(root: Path, report: Report) -> dict[str, str]:
    """Return the pages' commands with their output: the first run, a part of the matrix, and answers from the data."""
    planes, word = "ipvs-container,ipvs-lb,ipvs-overlay", "source"
    shown = _answers(root, report)
    first = root / "results" / "readme" / "first.json"
    if first.exists() and isinstance(run := reading.read(str(first)), Result):
        shown["./run bench run --dataplane ipvs-container"] = _printed(run_table.render(run), terminal.WIDTH)
    for _, matrix in report.matrices:
        part = _printed(matrix_table.render(_part(matrix, planes, word)), matrix_table.WIDTH)
        shown[f"./run bench matrix --dataplane {planes} -k {word}"] = part
    return shown


def _answers(root: Path, report: Report) -> dict[str, str]:
    """Return the README's commands that read the published data, with the last lines that they print."""
    results = [result for _, result in report.results]
    told = {"answer": choice(report)}
    if predict.kernels(results):
        predicted = predict.predict(results, AskedSize(3000, 12, 110), None, [], {})
        told["predict --services 3000 --nodes 12 --containers 110"] = prediction.answer(predicted)
    own = [path for name in ("connections.json", "matrix.json") if (path := root / "results" / name).exists()]
    if same := [each for path in own for each in gate.decide_all(str(path), [str(path)])]:
        told["compare base new --fail-on connections_per_second:-1%"] = [gate.verdict(same)]
    return {f"./run bench {command}": _ELLIPSIS + "".join(f"{each}\n" for each in told[command]) for command in told}


def _part(matrix: Matrix, planes: str, word: str) -> Matrix:
    """Return what `bench matrix` would have written for some planes and checks, on the first kernel.

    The data set names the planes with their variants, and a command need not.
    """
    kernel = next(iter(matrix.environment))
    named = planes.split(",")
    asked = {title(each, each, catalog.recipe(each).default): each for each in named}
    known = [each["name"] for each in matrix.plan["dataplanes"]]
    found = {name: name if name in named else asked.get(name, "") for name in known}
    return msgspec.structs.replace(
        matrix,
        environment={kernel: matrix.environment[kernel]},
        plan={
            **matrix.plan,
            "dataplanes": [
                each | {"name": name} for each in matrix.plan["dataplanes"] if (name := found[each["name"]])
            ],
            "checks": [each for each in matrix.plan["checks"] if word in each["name"]],
        },
        cells=[
            msgspec.structs.replace(cell, dataplane=found[cell.dataplane])
            for cell in matrix.cells
            if cell.kernel == kernel and found[cell.dataplane] and word in cell.check
        ],
    )


def _printed(shown: RenderableType, width: int) -> str:
    """Return a table as it is printed on a pipe: without colours, and without blanks at the ends of lines."""
    page = StringIO()
    terminal.console(width, file=page).print(shown)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def exemplified(page: str, shown: dict[str, str]) -> str:
    """Return a page in which the output of its commands is written again."""
    for command, output in shown.items():
        block = re.compile(rf"^(\$ {re.escape(command)}\n).*?(?=^```)", re.M | re.S)
        page = block.sub(lambda found, output=output: found[1] + output, page)  # type: ignore[misc]
    return page


def replaced(page: str, made: str) -> str:
    """Return a page in which the section of results is written again."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, page, flags=re.S)


def write(root: Path, report: Report) -> None:
    """Write the pages of a checkout. Outside a checkout nothing is done."""
    if not (root / "README.md").exists():
        return
    for path, told in pages(root, report).items():
        files.write(path, told.encode())


def pages(root: Path, report: Report) -> dict[Path, str]:
    """Return every page and drawing of a checkout, with the content it should have."""
    made = {root / "docs" / "semantics.md": semantics.page(mutants.tried_in(root))}
    shown, decides = examples(root, report), picture.facts(report)
    for suffix, say in (("", ENGLISH), (".zh", CHINESE)):
        drawing = f"docs/picture{suffix}.svg" if decides else ""
        if decides:
            made[root / drawing] = picture.standalone(report, decides, say)
        readme = root / f"README{suffix}.md"
        made[readme] = exemplified(replaced(readme.read_text("utf-8"), section(report, drawing, say)), shown)
        made[root / "docs" / f"answer{suffix}.md"] = answer(report, say)
    observing = root / "docs" / "matrix.md"
    made[observing] = exemplified(observing.read_text("utf-8"), shown)
    told = [BEGIN, "", *prediction.validation([result for _, result in report.results]), "", END]
    page = root / "docs" / "predict.md"
    made[page] = replaced(page.read_text("utf-8"), "\n".join(told))
    seen = peers.PeerDocuments(root / "results" / "peers", report)
    made[root / "docs" / "peers.md"] = peers.written((root / "docs" / "peers.md").read_text("utf-8"), seen)
    return made
