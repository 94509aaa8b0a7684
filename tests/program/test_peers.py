"""docs/peers.md: the real packages of others run in our world, and a document tells which they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataplanes import peers
from tests.program.command import bench, soonest


@pytest.mark.parametrize("name", peers.NAMES)
def test_a_peer_is_reached_and_told_by_its_version(name: str, tmp_path: Path) -> None:
    matrix = tmp_path / "matrix.json"
    options = ("--kernel", soonest(name), "--clock", "wall", "-k", "reach", "-o", str(matrix))
    done = bench("matrix", "--dataplane", name, *options, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(matrix.read_text("utf-8"))
    outcomes = {cell["check"]: cell["outcome"] for cell in found["cells"]}
    assert outcomes["reach.payload"] == "pass"
    assert [*outcomes.values()].count("pass") >= 5
    (plane,) = found["plan"]["dataplanes"]
    packages = {each["name"]: each for each in plane["program"]["packages"]}
    assert packages[name]["version"]
    assert packages[name]["suite"]


@pytest.mark.night
def test_a_peer_stands_in_a_table_beside_our_planes(tmp_path: Path) -> None:
    """Its figures are those of its own processes, too: HAProxy moves each byte itself."""
    result = tmp_path / "run.json"
    sizes = ("--repeat", "1", "--connections", "100", "--clock", "instructions", "-o", str(result))
    done = bench("run", "--dataplane", "nft-lb,haproxy", *sizes, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["dataplane"]: row for row in json.loads(result.read_text("utf-8"))["summary"]}
    costs = {name: row["figures"]["instructions_per_connection"]["value"] for name, row in rows.items()}
    assert costs["direct"] < costs["nft-lb"] < costs["haproxy"]
