"""Exported results for other programs."""

from __future__ import annotations

import pytest

from bench.documents import Result, Trial
from bench.report.export import pytest_benchmark

TRIALS = [Trial("nft-lb", "seed", "crr", n, n == 0, {"connections_per_second": 1000.0 * n}) for n in range(3)]


@pytest.mark.parametrize(
    ("tool", "commit", "dirty"),
    [
        ({"revision": "6e1ed33aabbc"}, "6e1ed33aabbc", False),
        ({"revision": "6e1ed33aabbc+"}, "6e1ed33aabbc", True),
        ({}, "unknown", False),
    ],
)
def test_pytest_benchmark_is_told_the_commit(tool: dict[str, str], commit: str, dirty: bool) -> None:
    found = pytest_benchmark(Result(tool, {}, {}, TRIALS, []))
    assert (found["commit_info"]["id"], found["commit_info"]["dirty"]) == (commit, dirty)
    assert found["benchmarks"][0]["stats"]["data"] == [0.001, 0.0005]
