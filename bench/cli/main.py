"""The command line: it parses arguments, makes one function call, and turns errors into one line and an exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import click
import msgspec

from bench import __version__, api
from bench.cli import completion as completion_of
from bench.cli import documents as cli_documents
from bench.cli import explore as cli_explore
from bench.cli import importing, listing, new_plane, predicting
from bench.cli import matrix as cli_matrix
from bench.cli import tracing as cli_tracing
from bench.cli.options import (
    NumberRange,
    axis_options,
    axis_values,
    clock_option,
    cluster_option,
    dataplane_option,
    jobs_option,
    kernel_option,
    one,
    options,
    output_writer,
    scenario_option,
    shown_clock_option,
    timeout_option,
    workload_option,
)
from bench.report import terminal
from dataplanes import catalog
from dataplanes.errors import BenchError
from dataplanes.kernel import interrupt
from dataplanes.texts import demand_utf8, line

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Program(click.Group):
    """A group of commands that turns the project's errors into one line on stderr and their exit code.

    SIGINT is raised again after the clean-up.
    """

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*args, **more)
        except BrokenPipeError:  # --help and --version are printed before there is a command
            terminal.end_as_a_filter()
            raise
        except OSError as error:
            sys.exit(terminal.lost(error))

    def invoke(self, ctx: click.Context) -> Any:
        terminal.ready()
        before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
        try:
            interrupt.catch()
            return self._invoke(ctx)
        except KeyboardInterrupt as caught:  # everything is undone; die as a program that does not catch it
            number = caught.args[0] if caught.args else signal.SIGINT
            with suppress(OSError):  # the terminal was closed
                click.echo(f"bench: ended by {signal.Signals(number).name}", err=True)
                sys.stdout.flush()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _invoke(self, ctx: click.Context) -> Any:
        """Invoke the command. Its error is told here, where a signal may strike, too."""
        try:
            with interrupt.prevailing():
                done = super().invoke(ctx)
                terminal.flush()
                return done
        except BrokenPipeError:  # everything has been undone here, too
            terminal.end_as_a_filter()
        except OSError as error:
            ctx.exit(terminal.lost(error))
        except BenchError as error:
            terminal.say(line(f"bench: {error}"), err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Program, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="bench")
def main() -> None:
    """Compare where and how a service VIP is load-balanced: correctness and cost, on real kernels."""


for _command in (
    cli_explore.explore,
    cli_tracing.trace,
    cli_matrix.matrix,
    cli_documents.compare,
    cli_documents.report,
    cli_documents.history,
    cli_documents.answer,
    cli_documents.publish,
    new_plane.plane,
    importing.import_,
    predicting.predict,
    listing.list_,
    completion_of.completion,
):
    main.add_command(_command)


@main.command()
@options(
    dataplane_option,
    scenario_option,
    kernel_option,
    clock_option,
    timeout_option,
    jobs_option,
    cluster_option,
    workload_option,
)
@click.option(
    "--repeat",
    "-r",
    type=click.IntRange(1, 1000),
    help="Measure every plane N times, in interleaved rounds. By default 5 times by the wall clock; by the instruction"
    " clock, 3 to 7 times, until the rounds agree within 0.5 %.",
)
@click.option(
    "--precision",
    type=NumberRange(0, 50, min_open=True),
    metavar="PERCENT",
    help="Measure until the 95 % interval of every ratio to direct is no wider than PERCENT; by the instruction clock,"
    " until the rounds agree within it. It is above 0 to 50; by default the wall clock has none, and the instruction"
    " clock 0.5. --repeat is then the most: by default 100 by the wall clock, and 7 by the instruction clock.",
)
@click.option(
    "--connections",
    "-n",
    type=click.IntRange(1, 10_000_000),
    help="Make N connections in each trial. By default 1,000 by the instruction clock (4,000 if a platform as swarm is "
    "measured), and 10,000 by the wall clock.",
)
@axis_options
@click.option(
    "--output", "-o", metavar="FILE", help="Write the result as JSON; - is stdout. Trials are kept beside it."
)
@click.option("--self-check", is_flag=True, help="Hold the load generator against wrk and nginx, too.")
@click.option("--profile", is_flag=True, help="Tell by kernel function where the time goes, in a trial of its own.")
@click.option(
    "--benchmark-json", metavar="FILE", help="Write the rounds as JSON that `pytest-benchmark compare` reads."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and its estimated time, and measure nothing.")
def run(
    dataplane: str,
    scenario: str,
    kernel: str,
    clock: str | None,
    timeout: float | None,
    jobs: int | None,
    cluster: str | None,
    repeat: int | None,
    precision: float | None,
    connections: int | None,
    workload: str | None,
    output: str | None,
    self_check: bool,
    profile: bool,
    benchmark_json: str | None,
    dry_run: bool,
    **axes: str | None,
) -> None:
    """Measure data planes against the direct path, in interleaved rounds, each trial in a fresh lab."""
    from bench.cli.progress import announcement, progress
    from bench.outside import estimate
    from bench.report import result_table as table

    if dry_run:
        output = benchmark_json = None
    write, write_benchmark = output_writer(output), output_writer(benchmark_json)
    planned = api.plan(
        dataplane,
        ["crr", "wrk"] if self_check else [workload] if workload else [],
        axis_values(axes),
        scenario=scenario,
        kernel=kernel,
        clock=clock,
        rounds=repeat,
        precision=None if precision is None else precision / 100,
        connections=connections,
        profile=profile,
        jobs=jobs,
        cluster=cluster,
        output=output,
    )
    work, chosen = planned.run, planned.kernel
    title = f"{chosen.name}, {chosen.clock} clock"
    if dry_run:
        table.show_plan(planned.trials)
        terminal.say(
            announcement(work.seconds(), title, estimate.pace(chosen), lanes=work.lanes(), agreeing=bool(work.goal))
        )
        return
    pace, lanes = estimate.pace(chosen), work.lanes()
    with progress(work.seconds(), title, pace, done=work.done, lanes=lanes, agreeing=bool(work.goal)) as on_event:
        result = planned.execute(timeout=timeout, on_event=on_event).result
    if output:
        write(api.encoded(result))
        work.written()
    if benchmark_json:
        from bench.report.export import pytest_benchmark

        write_benchmark(msgspec.json.encode(pytest_benchmark(result)))
    if output != "-":
        table.show(result)
        if self_check:
            table.show_agreement(result)
    if any(row.note for row in result.summary):
        sys.exit(1)


@main.command(context_settings={"ignore_unknown_options": True})
@options(dataplane_option, scenario_option, kernel_option, shown_clock_option, timeout_option)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def lab(
    dataplane: str, scenario: str, kernel: str, clock: str | None, timeout: float | None, command: tuple[str, ...]
) -> None:
    """Build the lab with a plane on, run COMMAND or a shell in it, and remove it. The exit code is COMMAND's.

    In the lab `container NAME COMMAND...` runs a command in a container, and `service` creates, scales, drains, removes
    or crashes services and tasks. BENCH_CLIENT names the container that calls the service. BENCH_LAB is the path of a
    JSON document with every namespace, address and service.
    """
    from bench.documents import Job
    from bench.outside import choose
    from bench.outside.dispatch import dispatch
    from bench.outside.points import scenario_path
    from scenarios import requires

    (selection,) = one(dataplane)
    path = scenario_path(scenario)
    chosen, reason = choose.choose(kernel, clock, [selection], measuring=False, more=requires.of(path))
    terminal.say(f"bench: {chosen.name} ({chosen.release}), {chosen.clock} clock: {reason}", err=True)
    demand_utf8(" ".join(command), "the command")
    job = Job("lab", path, [selection], command=list(command))
    tty = not command and sys.stdin.isatty() and sys.stdout.isatty()
    sys.exit(dispatch(job, chosen, timeout=timeout, tty=tty))


@main.command()
@options(dataplane_option, scenario_option, kernel_option, shown_clock_option, timeout_option)
@click.option("--json", "as_json", is_flag=True, help="Print the walk as JSON.")
def inspect(
    dataplane: str,
    scenario: str,
    kernel: str,
    clock: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Walk through host, overlay and container namespaces, and mark what the plane added with +."""
    from bench.documents import Event, Job
    from bench.outside import choose
    from bench.outside.dispatch import dispatch
    from bench.outside.points import scenario_path
    from scenarios import requires, walk

    (selection,) = one(dataplane)
    path = scenario_path(scenario)
    chosen, _ = choose.choose(kernel, clock, [selection], measuring=False, more=requires.of(path))
    reports: list[dict[str, Any]] = []

    def take(event: Event) -> None:
        if event.kind == "report":
            reports.append(event.data)

    code = dispatch(Job("inspect", path, [selection]), chosen, timeout=timeout, on_event=take)
    for report in reports:
        terminal.say(json.dumps(report, indent=1) if as_json else walk.text(report))
    sys.exit(code)


@main.command()
@click.argument("dataplanes", nargs=-1, shell_complete=completion_of.or_file(completion_of.dataplane))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--fix", is_flag=True, help="Install the packages that are missing, by apt, as root or by sudo.")
def doctor(dataplanes: tuple[str, ...], as_json: bool, fix: bool) -> None:
    """Check every prerequisite of every data plane, or of DATAPLANES, on every kernel.

    Tell how to get what is missing. With --fix, packages of the distribution are installed first; a user who may not
    install them gets the line to run.
    """
    from bench.cli.doctor import examine, repair

    if fix:
        repair()
    sys.exit(examine(catalog.select(",".join(dataplanes) or "all"), as_json=as_json))


@main.command()
def clean() -> None:
    """Remove what dead runs have left. Only things that their state files list are touched."""
    from scenarios import journal

    for removed in journal.clean():
        terminal.say(removed)
