"""On a real kernel, by the instruction clock, the program calls worse only what is worse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.program
SEED = (ROOT / "scenarios" / "files" / "seed.toml").read_text("utf-8")
RUN = ("--dataplane", "ipvs-lb", "--kernel", "guest", "--clock", "instructions", "--repeat", "3", "-n", "1000")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).with_name("bench")), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def measured(directory: Path, name: str, scenario: str) -> str:
    (directory / "world.toml").write_text(scenario, "utf-8")  # one name, which the result holds
    output = str(directory / name)
    done = bench("run", *RUN, "--scenario", str(directory / "world.toml"), "-o", output)
    assert done.returncode == 0, done.stderr
    return output


def verdicts(base: str, new: str) -> dict[tuple[str, str], Any]:
    (found,) = json.loads(bench("compare", base, new, "--json").stdout)["comparisons"]
    return {(each["dataplane"], each["metric"]): each for each in found["differences"]}


def test_a_run_is_the_same_as_its_like_and_twenty_five_more_mark_rules_are_worse(tmp_path: Path) -> None:
    base = measured(tmp_path, "a.json", SEED)
    again = measured(tmp_path, "b.json", SEED)
    slowed = measured(tmp_path, "c.json", SEED + "\n[filler]\ncount = 25\n")
    cost = "instructions_per_connection"

    like = verdicts(base, again)
    assert like["ipvs-lb", cost]["verdict"] == "same", like["ipvs-lb", cost]
    assert like["direct", cost]["verdict"] == "same", like["direct", cost]
    assert not [each for each in like.values() if each["verdict"] in ("better", "worse") and each["metric"] == cost]

    changed = verdicts(base, slowed)
    assert changed["ipvs-lb", cost]["verdict"] == "worse", changed["ipvs-lb", cost]
    assert changed["ipvs-lb", "connections_per_second"]["verdict"] == "worse"
    assert changed["direct", cost]["verdict"] == "same", changed["direct", cost]
    assert bench("compare", base, slowed, "--fail-on", f"{cost}:+0.5%").returncode == 1
    assert bench("compare", base, again, "--fail-on", f"{cost}:+0.5%").returncode == 0
