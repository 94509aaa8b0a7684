"""The command `bench doctor`: the requirements of every data plane, on every kernel."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from rich.table import Table

from bench import kernels
from bench.prepare import preflight
from bench.prepare.ready import requirements
from bench.report import terminal
from dataplanes.errors import BenchError
from dataplanes.selection import Selection


def examine(selections: Sequence[Selection], *, as_json: bool) -> int:
    """Print the answers per plane and kernel. Return 0 if every plane runs on some kernel, else 3."""
    found: dict[str, dict[str, list[str]]] = {}
    reasons: dict[str, str] = {}
    for name in kernels.list_kernels():
        try:
            kernel = kernels.resolve(name, None)
        except BenchError as error:
            reasons[name] = str(error)
            continue
        if name == "host" and os.geteuid() != 0:
            reasons[name] = "not root (run as root, or use --kernel guest)"
            continue
        for each in selections:
            lacking = preflight.missing(requirements([each]), kernel)
            found.setdefault(each.name, {})[name] = [f"{need.what}: {need.why} ({need.fix})" for need in lacking]
    if as_json:
        terminal.say(json.dumps({"kernels": reasons, "dataplanes": found}, indent=1))
    else:
        _show(found, reasons)
    runnable = found and all(any(not lacking for lacking in row.values()) for row in found.values())
    return 0 if runnable else 3


def _show(found: dict[str, dict[str, list[str]]], reasons: dict[str, str]) -> None:
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    table = Table("data plane", *names)
    for plane, row in found.items():
        table.add_row(plane, *("ok" if not row.get(name, ["?"]) else "missing" for name in names))
    out = terminal.console()
    out.print(table)
    for name, reason in reasons.items():
        out.print(f"{name}: {reason}")
    lines = [f"{name}: {line}" for row in found.values() for name, lacking in row.items() for line in lacking]
    for line in dict.fromkeys(lines):
        out.print(line)
