"""`bench compare` as its user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.conftest import ROOT
from tests.program.command import bench

DOCUMENTS = (str(ROOT / "results" / "connections.json"), str(ROOT / "results" / "matrix.json"))


def test_compare_ends_with_a_line_that_says_what_failed(tmp_path: Path) -> None:
    same = bench("compare", DOCUMENTS[0], DOCUMENTS[0], "--fail-on", "connections_per_second:-2%")
    assert (same.returncode, same.stdout.splitlines()[-1][:4]) == (0, "ok: ")
    found = json.loads(Path(DOCUMENTS[0]).read_bytes())
    found["trials"] = [each for each in found["trials"] if each["dataplane"] != "nft-lb"]
    found["environment"]["kernel"] = "6.9.0"
    new = tmp_path / "new.json"
    new.write_text(json.dumps(found))
    refused = bench("compare", DOCUMENTS[0], str(new))
    assert (refused.returncode, "the kernels differ" in refused.stdout.splitlines()[-1]) == (1, True), refused.stdout
    lacking = bench("compare", DOCUMENTS[0], str(new), "--allow", "kernel")
    assert lacking.returncode == 1
    assert lacking.stdout.splitlines()[-1] == f"FAILED: nft-lb is not in {new}"
    assert "the kernels differ" in lacking.stdout.splitlines()[0]
    as_json = bench("compare", DOCUMENTS[0], str(new), "--allow", "kernel", "--json")
    assert (as_json.returncode, as_json.stderr) == (1, f"FAILED: nft-lb is not in {new}\n")
    document = json.loads(as_json.stdout)
    assert (document["kind"], document["schema"], document["verdict"]) == ("comparison", 2, as_json.stderr.strip())
    assert {each["dataplane"] for each in document["comparisons"][0]["differences"]} >= {"direct", "nft-host"}
    assert bench("compare", DOCUMENTS[1], DOCUMENTS[1]).returncode == 0
    assert bench("compare", *DOCUMENTS).returncode == 2


def test_two_percent_slower_or_a_lost_clause_is_exit_1_and_named_and_the_same_is_exit_0(tmp_path: Path) -> None:
    """Compare two versions in CI, and fail on 2 % or a lost clause: the README's command."""
    (command,) = re.findall(r"^\$ \./run bench (compare base new .+)$", (ROOT / "README.md").read_text("utf-8"), re.M)
    base, new = tmp_path / "base", tmp_path / "new"
    for side in (base, new):
        side.mkdir()
        for path in DOCUMENTS:
            (side / Path(path).name).write_bytes(Path(path).read_bytes())
    same = bench(*command.split(), cwd=tmp_path)
    assert (same.returncode, same.stdout.splitlines()[-1][:4]) == (0, "ok: ")
    figures = json.loads((new / "connections.json").read_bytes())
    for trial in figures["trials"]:
        if trial["dataplane"] == "nft-host" and "connections_per_second" in trial["figures"]:
            trial["figures"]["connections_per_second"] *= 0.98
    (new / "connections.json").write_text(json.dumps(figures))
    slower = bench(*command.split(), cwd=tmp_path)
    assert slower.returncode == 1
    assert slower.stdout.splitlines()[-1].startswith("FAILED: nft-host crr connections_per_second -2.0% [-2.")
    cells = json.loads((new / "matrix.json").read_bytes())
    cell = next(each for each in cells["cells"] if each["outcome"] == "pass")
    cell["outcome"] = "fail"
    (new / "matrix.json").write_text(json.dumps(cells))
    lost = bench(*command.split(), "--format", "github", cwd=tmp_path)
    assert lost.returncode == 1
    named = f"{cell['kernel']} {cell['dataplane']} {cell['check']} pass -> fail"
    assert f"::{named}" in lost.stdout
    assert named in lost.stdout.splitlines()[-1] or "nft-host" in lost.stdout.splitlines()[-1]
