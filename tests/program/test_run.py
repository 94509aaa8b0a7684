"""`bench run` as its user runs it: the plan, the comparison and the document."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.program.command import bench


def test_a_dry_run_shows_the_plan_and_touches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    sizes = ("--kernel", "guest", "--repeat", "3", "--services", "1,100", "--output", str(file))
    done = bench("run", "--dataplane", "ipvs-lb,ebpf-tc", *sizes, "--dry-run", BENCH_STATE=str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert rows == [
        ["crr", "1 more services", "direct, ipvs-lb, ebpf-tc", "3", "9", "1,000"],
        ["crr", "100 more services", "direct, ipvs-lb, ebpf-tc", "3", "9", "1,000"],
    ]
    assert re.search(r"18 trials.*, about \d+ (s|min) at ", done.stdout)
    assert list(tmp_path.iterdir()) == []
    alone = bench("run", "--dataplane", "all", *sizes, "--clock", "instructions", "--jobs", "1", "--dry-run")
    assert (alone.returncode, " guests" in alone.stdout) == (0, False), alone.stdout


def test_run_prints_a_comparison_and_writes_the_document(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ("--dataplane", "ipvs-container", "--kernel", "guest", "--repeat", "1", "--connections", "300")
    done = bench("run", *arguments, "--clock", "instructions", "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert "ipvs-container" in done.stdout
    assert "instruction clock" in done.stdout
    result = json.loads(file.read_text("utf-8"))
    assert (result["kind"], result["schema"]) == ("result", 2)
    assert result["units"]["connect_p50_us"] == "µs"
    assert [(each["dataplane"], each["warmup"]) for each in result["trials"]] == [
        ("direct", False),
        ("ipvs-container", False),
    ]
    for trial in result["trials"]:
        figures, work = trial["figures"], trial["work"]
        assert work["backends"] == {"1": 100, "2": 100, "3": 100}
        assert (work["errors"], work["operations"]) == ({}, 300)
        assert figures["connections_per_second"] > 100
        assert figures["instructions_per_connection"] > 10_000
        assert figures["connect_p50_us"] <= figures["connect_p99_us"]
    held = {(each["place"], each["namespace"], each["what"]): each for each in result["trials"][1]["held"]}
    connections = held["container", "my-busybox.1", "ipvs connections"]
    assert connections["objects"] >= 300
    assert connections["bytes"] / connections["objects"] > 200  # struct ip_vs_conn
    assert held["container", "my-web.1", "ipvs services"]["objects"] == 2
    assert held["container", "my-web.1", "conntrack entries"]["objects"] >= 100
    assert "tcp-segmentation-offload" in result["trials"][1]["settings"]["container"]["offload.eth"]
    assert result["environment"]["kernel"].startswith("6.")
    assert result["environment"]["emulator"].startswith("QEMU emulator version ")
    assert result["environment"]["config"]["IP_VS"] == "m"
    (variant,) = [each["variant"] for each in result["plan"]["dataplanes"]]
    assert variant == "1.12.6-tweaked"
    assert 0.3 < result["summary"][1]["ratio_to_direct"]["value"] < 1
