"""Somebody's own cluster: docs/import.md, followed on this machine's kernel."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from tests.program.command import bench
from tests.program.pages import IMPORT, STACK

COMMANDS = re.findall(r"^\$ bench (.+)$", IMPORT, re.MULTILINE)


def test_a_stack_file_is_measured_and_observed(tmp_path: Path) -> None:
    (tmp_path / "stack.yml").write_text(STACK)
    reading, run, matrix, merging = (shlex.split(command) for command in COMMANDS)
    assert bench(*reading, cwd=tmp_path).returncode == 0
    done = bench(*run, "-o", "result.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    (trial,) = [each for each in result["trials"] if each["dataplane"] == "nft-lb" and not each["warmup"]]
    assert (trial["scenario"], sum(trial["work"]["backends"].values()) >= 500) == ("mine", True)
    assert len(trial["work"]["backends"]) == 3  # the replicas of the service with the most

    done = bench(*matrix, "-o", "matrix.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "matrix.json").read_text("utf-8"))
    assert found["plan"]["cast"]["my-web"] == "vote"
    cells = {cell["check"]: cell for cell in found["cells"]}
    assert cells["reach.other-node"]["detail"] == "answered by: mail.1"
    assert cells["reach.node-without-backend"]["outcome"] == "skip"
    assert cells["reach.node-without-backend"]["detail"].startswith("not applicable: no container is on a node")
    assert cells["change.scale-up"]["outcome"] == "pass"

    (tmp_path / "compose.yml").write_text(STACK)
    (tmp_path / "compose.override.yml").write_text("services: {vote: {deploy: {replicas: 5}}}")
    done = bench(*merging, cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-2][:51]) == (
        0,
        "mine.toml: nodes 3, networks 2, services 5, contain",
    ), done.stderr
    assert (tmp_path / "mine.toml").read_text("utf-8").count('name = "vote.') == 5
