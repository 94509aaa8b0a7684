"""The command `bench trace`."""

from __future__ import annotations

import sys
from typing import get_args

import click

from bench import api
from bench.cli.options import (
    dataplane_option,
    kernel_option,
    options,
    output_writer,
    scenario_option,
    shown_clock_option,
    timeout_option,
)
from bench.documents.tracing import MOST_BYTES, FlowProtocol, Story, Until
from bench.report import terminal
from dataplanes import catalog
from dataplanes.errors import Usage


@click.command()
@options(dataplane_option, scenario_option, kernel_option, shown_clock_option, timeout_option)
@click.option("--from", "origin", default="", metavar="CONTAINER", help="Name the client; by default the scenario's.")
@click.option(
    "--to", "service", default="", metavar="SERVICE", help="Name the service that it asks; by default the scenario's."
)
@click.option(
    "--protocol",
    type=click.Choice(get_args(FlowProtocol)),
    default="tcp",
    show_default=True,
    help="Ask by a TCP connection, by a UDP datagram, by an echo (a ping), or by an SCTP association.",
)
@click.option(
    "--size",
    type=click.IntRange(1, MOST_BYTES),
    default=1,
    show_default=True,
    help=f"Bytes of the request; 1 to {MOST_BYTES:,}. A datagram that is larger than the MTU is sent in fragments.",
)
@click.option(
    "--until",
    type=click.Choice(get_args(Until)),
    default="reply",
    show_default=True,
    help="Follow until the answer is there, or until the connection is closed.",
)
@click.option("--all", "everything", is_flag=True, help="Print every kernel function at which a packet was seen.")
@click.option("--json", "as_json", is_flag=True, help="Print the stories and all sightings as JSON.")
@click.option(
    "--svg",
    metavar="FILE",
    help="Also draw the way through the namespaces with each rewrite; - prints only the drawing.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def trace(
    dataplane: str,
    scenario: str,
    kernel: str,
    clock: str | None,
    timeout: float | None,
    origin: str,
    service: str,
    protocol: FlowProtocol,
    size: int,
    until: Until,
    everything: bool,
    as_json: bool,
    svg: str | None,
    command: tuple[str, ...],
) -> None:
    """Follow one request to a VIP and its answer through every namespace, and tell where addresses are rewritten.

    A line tells the namespace, the device, the hook, the addresses before and after, and what decided. The last line
    tells where a packet arrived, or the kernel's reason for dropping it. The exit code is 1 if there was no answer.

    A COMMAND runs in the client's container instead, and what it sends to the VIP by the protocol is followed. The exit
    code is 1 if it fails.
    """
    from bench.documents.tracing import Tracing
    from bench.outside import choose
    from bench.outside import tracing as outside
    from bench.outside.points import scenario_path
    from bench.report import story
    from dataplanes import follower
    from dataplanes.texts import demand_utf8
    from scenarios import requires, topology

    if svg == "-" and as_json:
        raise Usage("cannot print JSON and a drawing together", fix="give --svg a file")
    selections = catalog.select(dataplane)
    path = scenario_path(scenario)
    demand_utf8(" ".join(command), "the command")
    tracing = Tracing(origin, service, protocol, until, list(command), size)
    outside.demand_known(topology.load(path), tracing)
    outside.demand_served(selections, tracing)
    write = output_writer(svg)
    more = (*follower.REQUIRES, *requires.of(path))
    chosen, reason = choose.choose(kernel, clock, selections, measuring=False, more=more)
    terminal.say(f"bench: {chosen.name} ({chosen.release}), {chosen.clock} clock: {reason}", err=True)
    told: list[Story] = []

    def tell(one: Story) -> None:
        if not as_json and svg != "-":
            terminal.say("\n".join(([""] if told else []) + list(story.lines(one, everything=everything))))
            told.append(one)

    found = outside.trace(path, selections, tracing, chosen, reason, timeout=timeout, on_story=tell)
    if svg:
        from bench.report import drawing

        write(drawing.draw(found.stories, f"followed on Linux {found.environment['kernel']}").encode())
    if as_json:
        terminal.write(api.encoded(found))
    elif svg != "-":
        if len(found.stories) > 1:
            terminal.say("\n".join(["", *story.table(found.stories)]))
        first, *others = found.stories
        for each in others:
            terminal.say("\n".join(["", *story.difference(first, each)]))
    sys.exit(0 if all(each.flow.answered for each in found.stories) else 1)
