"""Every workload on a real kernel, a run that is cut short, and pages from the measured figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.documents.workloads import WORKLOADS
from tests.program.command import BENCH, bench

pytestmark = pytest.mark.program
RUN = ("run", "--dataplane", "nft-lb", "--kernel", "guest", "--clock", "instructions")


def test_every_workload_gives_its_figures_and_a_page_shows_them(tmp_path: Path) -> None:
    file, page = tmp_path / "all.json", tmp_path / "all.html"
    sizes = ("--workload", "all", "--repeat", "1", "--connections", "60", "--services", "3", "--sources", "2")
    done = bench(*RUN, *sizes, "--output", str(file), timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_bytes())
    rows = {(row["workload"], row["dataplane"]): row for row in result["summary"]}
    for name, workload in WORKLOADS.items():
        if not workload.tools and workload.processors == 1:  # those that every kernel can run
            row = rows[name, "nft-lb"]
            assert row["n"] == 1, (name, row["note"])
            assert {workload.primary, *workload.columns} <= row["figures"].keys() | {"retransmits", "lost_percent"}
            assert workload.title in done.stdout
    assert rows["udp", "nft-lb"]["errors"] == {}
    assert rows["churn", "nft-lb"]["figures"]["changes"]["value"] >= 1
    assert bench("report", str(file), "--output", str(page)).returncode == 0
    assert "Requests on long-lived connections" in page.read_text("utf-8")
    assert "| nft-lb" in bench("report", str(file)).stdout
    assert bench("report", str(file), "--output", str(tmp_path / "x.pdf")).returncode == 2


@pytest.mark.night
def test_a_profile_says_which_part_of_the_kernel_takes_how_much(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    done = bench(*RUN, "--repeat", "1", "--connections", "500", "--profile", "--output", str(file), timeout=600)
    assert done.returncode == 0, done.stderr
    assert "nft-lb, crr: where the time goes: " in done.stdout
    found = {
        trial["dataplane"]: trial["profile"] for trial in json.loads(file.read_bytes())["trials"] if trial["warmup"]
    }
    for profile in found.values():
        assert sum(profile["parts"].values()) == pytest.approx(1)
        assert profile["parts"]["TCP"] > 0.02
    calls = {name: {f["name"]: f["calls"] for f in profile["functions"]} for name, profile in found.items()}
    assert calls["nft-lb"]["nf_conntrack_in"] > calls["direct"]["nf_conntrack_in"] > 5
    assert found["nft-lb"]["parts"]["nftables"] > found["direct"]["parts"].get("nftables", 0)


@pytest.mark.night
def test_a_run_that_is_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    kept = tmp_path / "r.json.trials"
    command = [*BENCH, *RUN, "--repeat", "3", "--connections", "100", "--output", str(file)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 240
    while (not kept.exists() or kept.read_text("utf-8").count('"kind":"trial"') < 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGINT
    done_before = kept.read_text("utf-8").count('"kind":"trial"')
    assert 3 <= done_before < 6

    lines = kept.read_text("utf-8").splitlines()  # as if another program had measured
    identity = json.loads(lines[0])
    identity["run"][1]["sources"] = "000000000000"
    other = tmp_path / "other.json.trials"
    other.write_text("\n".join([json.dumps(identity, separators=(",", ":")), *lines[1:], ""]))
    mixed = bench(*command[len(BENCH) : -1], str(tmp_path / "other.json"), "--timeout", "1")
    assert (mixed.returncode, "program or kernel: begun anew" in mixed.stderr) == (124, True), mixed.stderr
    assert "done before" not in mixed.stderr

    again = bench(*command[len(BENCH) :], "--benchmark-json", str(tmp_path / "b.json"))
    assert again.returncode == 0, again.stderr
    assert f"{done_before} done before" in again.stderr
    result = json.loads(file.read_bytes())
    assert len(result["trials"]) == 6
    commit = json.loads((tmp_path / "b.json").read_bytes())["commit_info"]
    assert commit["id"] == result["tool"]["revision"].rstrip("+") != "unknown"
    assert not kept.exists()
