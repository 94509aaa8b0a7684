"""The rows of `bench list`: data planes with variants and knobs, scenarios, checks, workloads, metrics, kernels."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from msgspec.structs import asdict

from bench.report import terminal
from dataplanes import catalog, knobs, peers, platforms
from dataplanes.errors import Usage
from dataplanes.selection import Selection

Listed = dict[str, Any]
"""A name and a summary.

The rows of planes and checks have the package that they come from, "" for our own. The rows of planes have variants and
knobs, and `peer` if they are peers. Those of checks have the number of their clause, and those of metrics their fields.
"""


def rows(what: str, names: Sequence[str] = ()) -> list[Listed]:
    """Return the rows of one kind, or those with these names. Planes are named as `--dataplane` takes them.

    Raises Usage for a name that there is none of.
    """
    if what == "dataplanes" and names:
        return [_dataplane(each) for each in catalog.select(",".join(names))]
    found = LISTS[what]()
    known = {row["name"]: row for row in found}
    for strange in (name for name in names if name not in known):
        near = difflib.get_close_matches(strange, known, 1)
        raise Usage(f"no {strange!r} among the {what}", fix=f"did you mean {near[0]}?" if near else "")
    return [known[name] for name in names] if names else found


def lines(what: str, names: Sequence[str] = ()) -> Iterator[str]:
    """Return the rows as text, one line each. Variants and knobs follow below the data planes."""
    found = rows(what, names)
    width = max((len(row["name"]) for row in found), default=0)
    for row in found:
        origin = f" ({row['package']})" if row.get("package") else ""
        clause = f"  {row['clause']:<5}" if "clause" in row else ""
        peer = " (a peer)" if row.get("peer") else ""
        yield f"{row['name']:<{width}}{clause}  {row['summary']}{origin}{peer}"
    if what == "dataplanes" and any(row["knobs"] for row in found):
        yield from _choices(found)


def _choices(found: list[Listed]) -> Iterator[str]:
    """List variants and knobs, once for all planes that have the same knobs with the same defaults."""
    groups: dict[str, list[Listed]] = {}
    for row in found:
        if row["knobs"]:
            groups.setdefault(str(row["knobs"]), []).append(row)
    yield ""
    yield "NAME@VARIANT chooses a variant, NAME+KNOB=VALUE and NAME@VARIANT+KNOB=VALUE change a knob:"
    for group in groups.values():
        yield ""
        yield ", ".join(row["name"] for row in group)
        if named := [name for name in group[0]["variants"] if name]:
            default = group[0]["default"]
            yield "  variants: " + ", ".join(f"{name} (default)" if name == default else name for name in named)
        for knob in group[0]["knobs"]:
            yield f"  {knob['name']}={knob['values']}  {knob['meaning']} (default: {knob['default']})"


def _dataplanes() -> list[Listed]:
    return [
        {"name": name, "summary": catalog.summary(name), "package": catalog.package(name), **_settings(name)}
        for name in catalog.names()
    ] + [_dataplane(each) for each in (*catalog.select("peers"), *catalog.select(",".join(platforms.known())))]


def _dataplane(selection: Selection) -> Listed:
    if selection.program:
        told = {"name": selection.name, "summary": selection.program.summary, "package": ""}
        peer = {"peer": True} if selection.name in peers.NAMES else {}
        return {**told, **peer, "default": "", "variants": {}, "knobs": []}
    if platform := platforms.of(selection):
        told = {"name": selection.name, "summary": platform.summary, "package": ""}
        variants = {each: asdict(platform.knobs) for each in platform.versions}
        described = [asdict(knob) for knob in platform.described()]
        return {**told, "peer": True, "default": platform.default, "variants": variants, "knobs": described}
    name = selection.dataplane
    told = {"name": selection.name, "summary": catalog.summary(name), "package": selection.package}
    return {**told, **_settings(name)}


def _settings(name: str) -> Listed:
    default = catalog.default(name)
    if default is None:
        return {"default": "", "variants": {}, "knobs": []}
    row = catalog.recipe(name)
    return {
        "default": row.default,
        "variants": {variant: asdict(settings) for variant, settings in row.variants.items()},
        "knobs": [asdict(knob) for knob in knobs.described(default)],
    }


def _named(found: dict[str, str]) -> list[Listed]:
    return [{"name": name, "summary": summary} for name, summary in found.items()]


def _scenarios() -> list[Listed]:
    from scenarios import topology

    return _named(topology.named())


def _workloads() -> list[Listed]:
    from bench.documents import workloads

    return _named({name: each.summary for name, each in workloads.WORKLOADS.items()})


def _metrics() -> list[Listed]:
    from bench.documents.metrics import METRICS

    return [{"name": name, "summary": each.summary(), **asdict(each)} for name, each in METRICS.items()]


def _checks() -> list[Listed]:
    from scenarios import checks

    return [
        {"name": name, "summary": each.statement, "package": each.package, "clause": _number(name)}
        for name, each in checks.known().items()
    ]


def _number(check: str) -> str:
    """Return the number of the clause that a check is about, or "" for a check of another package."""
    from scenarios import clauses

    clause = clauses.about(check)
    return clause.number if clause else ""


def _kernels() -> list[Listed]:
    from bench import kernels

    return _named(kernels.list_kernels())


LISTS: dict[str, Callable[[], list[Listed]]] = {
    "dataplanes": _dataplanes,
    "scenarios": _scenarios,
    "checks": _checks,
    "workloads": _workloads,
    "metrics": _metrics,
    "kernels": _kernels,
}


@click.command("list")
@click.argument("what", type=click.Choice(list(LISTS)))
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(what: str, names: tuple[str, ...], as_json: bool) -> None:
    """List data planes with variants and knobs, scenarios, checks, workloads, metrics or kernels, one line each.

    With NAMES, list only these. A plane file is a name of a data plane, too.
    """
    if as_json:
        terminal.say(json.dumps(rows(what, names), indent=1))
        return
    for each in lines(what, names):
        terminal.say(each)
