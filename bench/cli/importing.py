"""The command `bench import`: a scenario of somebody's own cluster."""

from __future__ import annotations

import shlex

import click

from bench.cli.options import output_writer
from bench.report import terminal
from dataplanes.texts import line


@click.command("import")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--output", "-o", default="-", metavar="FILE", help="Write the scenario as TOML; - is stdout, and the default."
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    metavar="N",
    help="Have at least N nodes; 1 to 100. A file tells the nodes that it names, and replicas run on them in turn.",
)
def import_(files: tuple[str, ...], output: str, nodes: int) -> None:
    """Make a scenario of compose or stack FILES, Kubernetes YAML, `ipvsadm -Sn` or `nft -j list ruleset`.

    Of several compose files a later one overrides an earlier one, as with `docker compose -f A -f B`.

    The scenario is what `bench run --scenario` and `bench matrix --scenario` take. Everything that it cannot have as
    the files tell it is listed on stderr, with file, line and reason. See docs/import.md.
    """
    from bench.imports import reading, toml
    from scenarios import topology

    write = output_writer(output)
    found = reading.imported(files, nodes)
    made = found.scenario
    made.description = f"imported from {', '.join(each.rpartition('/')[2] for each in files)}"[:200]
    comment = "Made by `bench import`. Change it as you like: [traffic] says which container calls which service."
    data = toml.text(made, comment)
    topology.parse(data, output)  # it is a valid scenario, or the error says which limit it exceeds
    write(data.encode())
    for note in found.notes:
        terminal.say(line(str(note)), err=True)
    tasks = sum(len(each.tasks) for each in made.services)
    counts = {"nodes": len(made.nodes), "networks": len(made.networks), "services": len(made.services)}
    told = ", ".join(f"{what} {count}" for what, count in {**counts, "containers": tasks}.items())
    terminal.say(f"{line(output)}: {told}; not carried over as the files have it: {len(found.notes)}", err=True)
    if output != "-":
        again = shlex.quote(output if "/" in output or output.endswith(".toml") else f"./{output}")
        terminal.say(f"try it: bench run --scenario {again} --dataplane nft-lb,ipvs-lb", err=True)
