"""`bench list` and `bench doctor` as their user runs them."""

from __future__ import annotations

import json

from tests.conftest import ROOT
from tests.program.command import bench


def test_lists() -> None:
    assert "ipvs-container" in bench("list", "dataplanes").stdout
    names = [each["name"] for each in json.loads(bench("list", "kernels", "--json").stdout)]
    assert names[0] == "host"
    scenarios = {each["name"] for each in json.loads(bench("list", "scenarios", "--json").stdout)}
    assert {path.stem for path in (ROOT / "scenarios" / "files").glob("*.toml")} == scenarios >= {"seed", "scale"}
    assert "scheduler=random|rr" in bench("list", "dataplanes").stdout
    told = json.loads(bench("list", "dataplanes", "--json").stdout)
    defaults = {each["name"]: each["default"] for each in told if each["default"]}
    assert (defaults["ipvs-container"], defaults["ipvs-lb"]) == ("1.12.6-tweaked", "map")
    assert "By default it is wall on every kernel" in " ".join(bench("lab", "--help").stdout.split())
    assert bench("list", "workloads").stdout.startswith("crr ")
    assert "_BENCH_COMPLETE" in bench("completion", "bash").stdout
    assert bench("--version").stdout.startswith("bench, version ")


def test_doctor_knows_every_plane_on_every_kernel() -> None:
    done = bench("doctor", "--json")
    found = json.loads(done.stdout)
    assert set(found["dataplanes"]) >= {"direct", "ipvs-container", "ipvs-lb", "ipvs-overlay"}
    guests = [name for name in found["dataplanes"]["ipvs-container"] if name != "host"]
    assert guests, found
    assert all(found["dataplanes"]["ipvs-container"][name] == [] for name in guests)
    assert done.returncode == 0
