"""`bench publish`: the data set the report and the answer come from, made by one command and gone on with after a stop.

Each step writes its document and is not done again while that is there; a step that is cut short goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from dataplanes.errors import BenchError


class Step(Struct, frozen=True):
    """A document of the data set and the command that makes it."""

    document: str
    arguments: tuple[str, ...]


_MEASURED = ("--dataplane", "all", "--kernel", "debian-6.12", "--clock", "instructions")
STEPS = (
    Step("matrix.json", ("matrix", "--dataplane", "all", "--kernel", "debian-6.1,debian-6.12")),
    Step("connections.json", ("run", *_MEASURED, "--repeat", "5")),
    Step("workloads.json", ("run", *_MEASURED, "--repeat", "1", "--workload", "rr,udp,first,stream,others")),
    Step("scale.json", ("run", *_MEASURED, "--repeat", "1", "--scenario", "scale")),
)


def publish(directory: Path, tell: Callable[[str], None]) -> None:
    """Make what is not there yet. Raises BenchError when a step fails for want of anything but an expected outcome."""
    directory.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        path = directory / step.document
        if path.exists() and path.stat().st_size:
            tell(f"{step.document}: there already")
            continue
        tell(f"{step.document}: bench {' '.join(step.arguments)}")
        argv = (sys.executable, "-m", "bench", *step.arguments, "--output", str(path))
        code = subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            raise BenchError(f"{step.document} was not made", why=f"bench {step.arguments[0]} ended with {code}")
