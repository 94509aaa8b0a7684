"""The correctness matrix of a whole `./run tox`: every semantic on every data plane, once.

    python -m tests.matrix DIRECTORY

A guest is emulated, so that a plane takes it forty seconds of a processor, and the machine's own kernel six. So the
planes that the machine's own kernel can run are observed there, and guests observe the others, and what the machine has
skipped: hours of silence, limits of the whole machine, a protocol that its kernel lacks. `tox -e kernels` has every
plane in guests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench import api
from dataplanes import catalog
from dataplanes.selection import balances

_GUEST = "debian-6.12"


def _observe(directory: Path, name: str, planes: list[str], kernel: str, checks: list[str]) -> int:
    """Run `bench matrix`, of some checks or of all of them. Return its exit code."""
    of = ("-k", " or ".join(checks)) if checks else ()
    outputs = (word for ending in ("json", "md") for word in ("-o", f"{directory}/matrix-{name}.{ending}"))
    argv = (*("matrix", "-d", ",".join(planes), "--kernel", kernel), *of, *outputs)
    junit = f"{directory}/junit-matrix-{name}.xml"
    return subprocess.run((sys.executable, "-m", "bench", *argv, "--junit", junit), check=False).returncode


def _skipped(matrix: Path) -> list[str]:
    """Return the checks that a matrix skipped on some plane."""
    return sorted({cell["check"] for cell in json.loads(matrix.read_bytes())["cells"] if cell["outcome"] == "skip"})


def main(directory: Path) -> int:
    """Observe every plane. Return the first exit code that is not 0."""
    native = [name for name in api.runnable("all") if balances(name)]
    others = [name for name in catalog.names() if balances(name) and name not in native]
    codes = []
    if native:
        codes.append(_observe(directory, "machine", native, "host", []))
        codes.append(_observe(directory, "skipped", native, _GUEST, _skipped(directory / "matrix-machine.json")))
    if others:
        codes.append(_observe(directory, "guests", others, _GUEST, []))
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
