"""Input that is made to exhaust the machine is refused within a second of processor time and 200 MB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.unit.fuzz.test_documents import HOSTILE
from tests.unit.fuzz.test_scenarios import REFUSED

_SECONDS, _MEGABYTES = 1.0, 200
_MEASURED = """
import json, re, sys, time
# What a command that reads documents loads, whatever is in them:
import bench.analysis.gate, bench.report.result_table, bench.report.answer
from bench.cli.main import main
begun = time.process_time()
try:
    main(prog_name="bench")
finally:
    most = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(json.dumps([time.process_time() - begun, int(most) // 1024]))
"""


def refused(*arguments: str) -> None:
    """A command ends with one line and exit code 2, in time and within the memory."""
    argv = [sys.executable, "-c", _MEASURED, *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    seconds, megabytes = json.loads(done.stdout)
    assert seconds < _SECONDS
    assert megabytes < _MEGABYTES


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *((name, ("report", "FILE")) for name in HOSTILE),
        ("many values", ("compare", "FILE", "FILE")),
        ("many values", ("answer", "FILE")),
    ],
)
def test_a_document_that_would_exhaust_the_machine_is_refused(
    name: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(HOSTILE[name]())
    refused(*(str(path) if each == "FILE" else each for each in command))


@pytest.mark.parametrize("name", ["nested", "a long key", "large", "sweep", "filler", "replicas", "containers"])
def test_a_scenario_that_would_exhaust_the_machine_is_refused(name: str, tmp_path: Path) -> None:
    path, (text, _) = tmp_path / "any.toml", REFUSED[name]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused("lab", "-d", "nft-lb", "-s", str(path), "--", "true")


def test_an_argument_of_any_bytes_is_refused_or_shown(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\x1b[31m.json"
    argv = [os.fsencode(sys.executable), b"-m", b"bench", b"report", name]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\\udcff\\x1b[31m.json: cannot read the file" in done.stderr
    Path(os.fsdecode(name)).write_text(json.dumps({"kind": "result", "schema": 2, "trials": []}), "utf-8")
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, check=False).returncode == 2
    (Path(os.fsdecode(name))).write_bytes((ROOT / "results" / "readme" / "first.json").read_bytes())
    done = subprocess.run([*argv, b"-o", b"-"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (b"run", b"-d", b"nft-lb", b"-s", b"/nowhere/\xff.toml"),
        (b"lab", b"-d", b"nft-lb", b"--kernel", b"/nowhere/\xff/vmlinuz", b"--", b"true"),
        (b"lab", b"-d", b"nft-lb", b"--kernel", b"host", b"--", b"echo", b"\xff"),
    ],
)
def test_what_no_document_can_hold_is_refused_before_the_run(arguments: tuple[bytes, ...]) -> None:
    argv = [os.fsencode(sys.executable), b"-m", b"bench", *arguments]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"is not UTF-8 text" in done.stderr
