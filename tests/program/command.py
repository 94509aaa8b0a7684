"""The program as its user starts it, for the tests of every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import kernels
from bench.prepare import preflight
from bench.prepare.ready import requirements
from dataplanes import catalog

BENCH = [str(Path(sys.executable).with_name("bench"))]


def bench(
    *arguments: str, timeout: float = 300, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def soonest(selected: str) -> str:
    """Return the kernel on which planes are tried soonest: the machine's own if they run on it, or else a guest's."""
    lacking = preflight.missing(requirements(catalog.select(selected)), kernels.resolve("host", None))
    return "guest" if os.geteuid() or lacking else "host"


def guests_of(parent: int) -> list[int]:
    """Return the QEMU processes that a process has started."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = each.read_text("ascii", "replace").rpartition(")")
        except OSError:
            continue
        if "(qemu-system" in name and int(rest.split()[1]) == parent:
            found.append(int(each.parent.name))
    return found
