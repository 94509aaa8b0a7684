"""The command `bench predict`: what each plane would cost in a larger cluster."""

from __future__ import annotations

import click

from bench import api
from bench.cli import completion
from bench.report import terminal


@click.command()
@click.argument("files", nargs=-1)
@click.option(
    "--services",
    type=click.IntRange(1, 1_000_000),
    required=True,
    metavar="N",
    help="Tell the costs with N services in all; 1 to 1,000,000. There is no default.",
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 100_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Tell the work of a change on N nodes; 1 to 100,000.",
)
@click.option(
    "--containers",
    type=click.IntRange(1, 10_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Have N containers on each node; 1 to 10,000.",
)
@click.option(
    "--dataplane",
    "-d",
    multiple=True,
    metavar="NAME[,NAME]|all",
    shell_complete=completion.dataplane,
    help="Name the data planes. A name without @VARIANT means all its variants that were measured. The default is all.",
)
@click.option(
    "--kernel", metavar="NAME", help="Name the kernel. The default is the one with the most figures in FILES."
)
@click.option("--json", "as_json", is_flag=True, help="Print the prediction as a JSON document.")
def predict(
    files: tuple[str, ...],
    services: int,
    nodes: int,
    containers: int,
    dataplane: tuple[str, ...],
    kernel: str | None,
    as_json: bool,
) -> None:
    """Tell what each plane costs at a size: per connection, per change, at a node's start, in memory.

    The costs come from models that are fitted to FILES, results by the instruction clock, or else to the published
    ones. Each has its error at sizes that the model had not seen. What lies outside of the measured sizes is marked.
    The last line is the answer. See docs/predict.md.
    """
    from bench.analysis import predict as models
    from bench.documents import Result, reading
    from bench.documents.prediction import AskedSize
    from bench.outside import provenance
    from bench.report import model, prediction

    read = [reading.read(path) for path in files or model.published()]
    results = [each for each in read if isinstance(each, Result)]
    wanted = [name for each in dataplane for name in each.split(",") if name and name != "all"]
    found = models.predict(results, AskedSize(services, nodes, containers), kernel, wanted, provenance.tool())
    if as_json:
        terminal.say(api.encoded(found).decode().rstrip())
        return
    terminal.console().print(prediction.table(found))
    for line in prediction.notes(found):
        terminal.say(line)
