"""The published figures are what anybody gets. A sample of them is measured again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.documents import Result, reading
from bench.kernels import list_kernels
from bench.report.model import PUBLISHED

pytestmark = pytest.mark.program
COST = "instructions_per_connection"


def figures(path: Path) -> tuple[str, dict[str, float]]:
    """(kernel release, instructions per connection by plane)."""
    document = reading.read(str(path))
    assert isinstance(document, Result)
    rows = [row for row in document.summary if row.workload == "crr"]
    return document.environment["kernel"], {row.dataplane: row.figures[COST].value for row in rows}


def test_a_sample_of_the_data_set_is_reproduced(tmp_path: Path) -> None:
    made = tmp_path / "sample.json"
    name = "debian-6.12" if "debian-6.12" in list_kernels() else "guest"
    argv = [str(Path(sys.executable).with_name("bench")), "run", "--dataplane", "nft-lb", "--kernel", name]
    argv += ["--clock", "instructions", "--repeat", "1", "-o", str(made)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    published_kernel, published = figures(PUBLISHED / "connections.json")
    kernel, found = figures(made)
    if kernel == published_kernel:
        assert all(abs(cost / published[plane] - 1) < 0.005 for plane, cost in found.items()), (found, published)
    else:  # another kernel is another program, but a plane adds about the same to the direct path
        added, was = found["nft-lb"] / found["direct"], published["nft-lb"] / published["direct"]
        assert abs(added / was - 1) < 0.1, (kernel, added, published_kernel, was)
