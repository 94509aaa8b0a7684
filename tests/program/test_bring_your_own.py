"""docs/bring-your-own.md, followed word by word: programs in shell and in Python through the whole matrix."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.cli.new_plane import LANGUAGES
from tests.conftest import ROOT
from tests.program.command import bench, soonest

PAGE = (ROOT / "docs" / "bring-your-own.md").read_text("utf-8")
STARTING = ROOT / "bench" / "cli" / "starting"
_FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.M | re.S)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)

FAULTS = {
    "shell": {
        "a drained backend gets its turns": ("range(.weight)", "range(1)", {"change.drain", "balance.weights"}),
        "removed backends are remembered": ("while read -r vip backend; do", "while false; do", {"change.udp-moves"}),
        "replies are not translated": ("ct status dnat snat", "ct status snat snat", {"reach.other-node"}),
    },
    "python": {
        "a drained backend gets its turns": ('range(each["weight"])', "range(1)", {"change.drain", "balance.weights"}),
        "removed backends are remembered": (" - kept", " & set()", {"change.udp-moves"}),
        "a removed service stays": ("    if old:\n", "    if old and new:\n", {"change.leaves-nothing"}),
    },
}
"""What is broken in a program: a text, what takes its place, and the checks that must see it."""


def _start(language: str, directory: Path) -> Path:
    done = bench("plane", "new", "my-plane", "--language", language, cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory / "my-plane"


def _cells(path: Path) -> dict[str, dict[str, str]]:
    return {each["check"]: each for each in json.loads(path.read_text("utf-8"))["cells"]}


def test_the_page_shows_the_files_that_a_new_plane_has() -> None:
    shown = dict(_FILE.findall(PAGE))
    assert set(shown) == {
        *(f"{language}/my-plane{end}" for language in LANGUAGES for end in ("", ".toml")),
        "shell/expected.toml",
    }
    for name, text in shown.items():
        assert text == (STARTING / name).read_text("utf-8"), name


def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    commands = [line for block in _CONSOLE.findall(PAGE) for line in re.findall(r"^\$ bench (.+)$", block, re.M)]
    assert len(commands) == 9
    for command in commands:
        short = ["-r", "1", "-n", "200"] if command.startswith("run") else []
        done = bench(*command.split(), *short, cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert json.loads((tmp_path / "after.json").read_text("utf-8"))["plan"]["dataplanes"][0]["program"]["digest"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_runs_through_the_whole_matrix_from_any_directory(language: str, tmp_path: Path) -> None:
    plane = _start(language, tmp_path)
    matrix = tmp_path / "matrix.json"
    kernel = soonest(f"{plane}/my-plane.toml")
    options = ("--kernel", kernel, "-o", str(matrix))
    done = bench("matrix", "-d", "../my-plane/my-plane.toml", *options, cwd=plane, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = _cells(matrix)
    assert set(cells) == {each["name"] for each in json.loads(bench("list", "checks", "--json").stdout)}
    outcomes = [each["outcome"] for each in cells.values()]
    assert outcomes.count("pass") > 90
    assert outcomes.count("fail") < 20


@pytest.mark.parametrize(
    ("language", "fault"), [(language, fault) for language, faults in FAULTS.items() for fault in faults]
)
def test_a_fault_that_is_planted_in_it_turns_the_right_cells_red(language: str, fault: str, tmp_path: Path) -> None:
    plane = _start(language, tmp_path)
    program = plane / "my-plane"
    old, new, seen = FAULTS[language][fault]
    text = program.read_text("utf-8")
    assert text.count(old) == 1
    program.write_text(text.replace(old, new), "utf-8")
    options = ("--kernel", soonest(f"{plane}/my-plane.toml"), "-k", " or ".join(sorted({*seen, "reach.payload"})))
    done = bench("matrix", "-d", "my-plane/my-plane.toml", *options, cwd=tmp_path, timeout=1200)
    assert done.returncode == 1, done.stdout + done.stderr
    red = set(re.findall(r"^! \S+ my-plane (\S+): ", done.stdout, re.M))
    assert seen <= red, done.stdout
    if fault != "replies are not translated":
        assert "reach.payload" not in red, "what the fault does not touch stays green"


def test_a_guest_finds_the_program_where_the_machine_has_it(tmp_path: Path) -> None:
    _start("shell", tmp_path)
    options = ("--kernel", "guest", "-k", "reach.payload", "--clock", "wall")
    done = bench("matrix", "-d", "./my-plane/my-plane.toml", *options, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 pass" in done.stdout


@pytest.mark.night
def test_the_rule_by_which_a_program_has_rewritten_a_packet_is_told(tmp_path: Path) -> None:
    _start("shell", tmp_path)
    done = bench("trace", "-d", "./my-plane/my-plane.toml", "--kernel", "guest", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[nft vip-my-plane-my-network balance" in done.stdout
    assert "by the rule: ip daddr 10.0.0.2 meta l4proto" in done.stdout


def test_a_program_that_is_refused_leaves_one_line(tmp_path: Path) -> None:
    plane = _start("shell", tmp_path)
    (plane / "my-plane").write_text("#!/bin/sh\necho it is Thursday >&2\nexit 4\n", "utf-8")
    options = ("--kernel", soonest(f"{plane}/my-plane.toml"), "--", "true")
    done = bench("lab", "-d", "my-plane/my-plane.toml", *options, cwd=tmp_path)
    assert done.returncode == 4
    assert re.search(r"^bench: b\w+-lb\.\S+: my-plane refuses to open: it is Thursday", done.stderr, re.M)
    assert "Traceback" not in done.stderr
