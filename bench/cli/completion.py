"""Shell completion of the options' values: planes, variants, knobs, workloads, kernels, checks, scenarios, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, get_completion_class

from bench.cli import listing
from dataplanes import catalog, knobs, peers, platforms
from dataplanes.errors import BenchError, Usage
from dataplanes.selection import DIRECT, split

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def dataplane(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of data planes, then @VARIANT and +KNOB=VALUE of the last name."""
    done, comma, last = incomplete.rpartition(",")
    with suppress(BenchError):  # another package cannot be used: the command itself reports it
        return [f"{done}{comma}{each}" for each in _planes(last) if each.startswith(last)]
    return []


def _planes(last: str) -> Iterable[str]:
    plane, _ = split(last)
    if last == plane or plane not in (*catalog.names(), *platforms.known()):
        chosen = [each for known in catalog.names() for each in (known, *_variants(known))]
        versions = [each for known in platforms.known() for each in _variants(known)]
        return [*chosen, *peers.NAMES, *versions, "peers", "all"]
    platform = platforms.known().get(plane)
    default = platform.knobs if platform else catalog.default(plane)
    if default is None:
        return []
    described = platform.described() if platform else knobs.described(default)
    before = last.rpartition("+")[0] if "+" in last else last
    changes = [f"{before}+{knob.name}={value}" for knob in described for value in _ways(knob)]
    return [*_variants(plane), *changes]


def _variants(plane: str) -> list[str]:
    if platform := platforms.known().get(plane):
        return [f"{plane}@{each}" for each in platform.versions]
    with suppress(BenchError):  # only the name of a package that cannot be used is known
        return [] if plane == DIRECT else [f"{plane}@{each}" for each in catalog.recipe(plane).variants if each]
    return []


def _ways(knob: knobs.Knob) -> list[str]:
    """Return the values of a knob if they can be listed, else one empty value."""
    values = knob.values.split("|")
    return values if all(".." not in value for value in values) else [""]


def listed(*kinds: str, more: Iterable[str] = (), several: bool = False) -> Completer:
    """Complete names that `bench list` shows, and `more`. With `several` the value is a list with commas."""

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        done, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        names = list(more)
        with suppress(BenchError):
            names += [row["name"] for kind in kinds for row in listing.rows(kind)]
        return [f"{done}{comma}{name}" for name in names if name.startswith(last)]

    return complete


def or_file(names: Completer) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete names. If no name fits, the shell completes files."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(each) for each in names(context, parameter, incomplete)]
        return found or [CompletionItem(incomplete, type="file")]

    return complete


def rules(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the rules of --fail-on, METRIC: or a verdict, in a list with commas."""
    from bench.documents.comparison import VERDICTS
    from bench.documents.metrics import METRICS

    done, comma, last = incomplete.rpartition(",")
    names = [*(f"{name}:" for name in METRICS), *VERDICTS]
    return [f"{done}{comma}{name}" for name in names if name.startswith(last)]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(bench completion bash)"."""
    from bench.report import terminal

    cls = get_completion_class(shell)
    if cls is None:
        raise Usage(f"no completion for {shell}")
    terminal.say(cls(click.get_current_context().find_root().command, {}, "bench", "_BENCH_COMPLETE").source())
