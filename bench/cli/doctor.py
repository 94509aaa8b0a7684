"""The command `bench doctor`: the requirements of every data plane, on every kernel."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence

from rich.table import Table

from bench import kernels
from bench.prepare import machine, preflight
from bench.prepare.ready import requirements
from bench.report import terminal
from dataplanes.errors import BenchError, Prerequisite
from dataplanes.selection import Selection


def repair() -> None:
    """Install what the machine lacks by one apt line. Raises Prerequisite with that line if it could not be."""
    lacking = machine.missing()
    if not lacking:
        return
    argv = machine.install_argv(lacking)
    before = machine.may_install()
    if before is not None:
        terminal.say(f"bench: {shlex.join([*before, *argv])}", err=True)
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (("apt-get", "update"), argv):  # without lists apt finds nothing; with old ones it may do
            subprocess.run([*before, *command], stdout=2, stdin=subprocess.DEVNULL, env=environ, check=False)
        lacking = machine.missing()
    if lacking:
        told = ", ".join(f"{each.name} ({each.package})" for each in lacking)
        line = f"sudo apt-get update && sudo {shlex.join(machine.install_argv(lacking))}"
        raise Prerequisite("packages are missing", why=told, fix=line)


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
    if lacking := machine.missing():
        out.print(f"packages are missing: {', '.join(each.package for each in lacking)} (bench doctor --fix)")
    lines = [f"{name}: {line}" for row in found.values() for name, lacking in row.items() for line in lacking]
    for line in dict.fromkeys(lines):
        out.print(line)
