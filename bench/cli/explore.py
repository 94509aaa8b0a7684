"""The command `bench explore`."""

from __future__ import annotations

import random
import sys

import click

from bench import api
from bench.cli import completion
from bench.cli.options import clock_option, kernel_option, options, output_writer
from bench.report import terminal
from dataplanes import catalog, platforms
from dataplanes.errors import Usage

_SEEDS = 2**32
_USUALLY = "10m"


@click.command()
@click.option(
    "--dataplane",
    "-d",
    multiple=True,
    metavar="NAME[,NAME]|all",
    shell_complete=completion.dataplane,
    help="Name the data planes, or NAME@VARIANT+KNOB=VALUE. With --replay the default is that of the file.",
)
@options(kernel_option, clock_option)
@click.option(
    "--for",
    "span",
    metavar="TIME",
    help="Explore each plane for so long, in real time: 90s, 10m, 1h; at most 24h. By default 10m, without --steps.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 10_000_000),
    metavar="N",
    help="Make N operations on each plane; 1 to 10,000,000. By default the time alone is the limit.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, _SEEDS - 1),
    metavar="N",
    help="Choose the sequences; 0 to 4,294,967,295. By default each exploration has other ones, and tells its seed.",
)
@click.option("--replay", metavar="FILE", help="Play the sequences of FILE, which -o wrote, and no others.")
@click.option("--output", "-o", metavar="FILE", help="Write what was found as JSON; - is stdout.")
def explore(
    dataplane: tuple[str, ...],
    kernel: str,
    clock: str | None,
    span: str | None,
    steps: int | None,
    seed: int | None,
    replay: str | None,
    output: str | None,
) -> None:
    """Play operations at random on data planes, and look for a sequence after which a VIP is not as it promises.

    It is made as short as can be, printed, and kept for the next time; the exit code is then 1. Ctrl-C ends the search
    with what was found so far.
    """
    from bench.cli.progress import exploring
    from bench.outside import choose
    from bench.outside import explore as outside
    from bench.outside import matrix as planes
    from bench.report import sequence
    from scenarios import expectations

    if replay is not None and (span, steps, seed) != (None, None, None):
        raise Usage("--replay plays a file's sequences", why="--for, --steps and --seed choose others")
    before = outside.exploration(replay) if replay is not None else None
    names = ",".join(dataplane) or (",".join(each.dataplane for each in before.findings) if before else "")
    if not names:
        raise Usage("no data plane named", fix="name one with --dataplane")
    seconds = outside.duration(span or _USUALLY) if span or steps is None else None
    selections = planes.planes(catalog.select(names))
    platforms.demand_planes(selections, "bench explore")
    expectations.demand_known(selections)
    write = output_writer(output)
    chosen, reason = choose.choose(kernel, clock, selections)
    seed = random.randrange(_SEEDS) if seed is None else seed
    explorer = outside.Explorer(selections, chosen, reason, {"seed": seed, "steps": steps, "seconds": seconds})

    def tell() -> int:
        found = explorer.document()
        write(api.encoded(found))
        for line in sequence.lines(found) if output != "-" else ():
            terminal.say(line)
        if found.explored and all(each.skipped for each in found.explored):
            return 4
        return 1 if found.findings else 0

    try:
        with exploring(selections, chosen, seed, replaying=before is not None) as on_event:
            if before:
                explorer.replay([each.operations for each in before.findings], on_event)
            else:
                explorer.explore(seed, steps, seconds, on_event)
    except KeyboardInterrupt:
        tell()
        raise
    sys.exit(tell())
