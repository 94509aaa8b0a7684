"""On a full disk a command ends with one line and exit code 3, keeps the existing files, and leaves no namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.outside.publish import STEPS
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
FULL = "No space left on device"
TRIAL = ("run", "-d", "nft-lb", "--kernel", "host", "--clock", "wall", "--repeat", "1", "--connections", "20")


def bench(
    directory: Path, size: str, arguments: Sequence[str], after: str = "true", before: str = "true", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command where `directory` is a file system of a few pages, in a mount namespace of its own.

    `before` and `after` are shell commands that run there. The run leaves nothing in /run/netns.
    """
    script = f"""
        mkdir -p /run/netns && mount -t tmpfs none /run/netns || exit 99
        mount -t tmpfs -o size={size} none "{directory}" || exit 99
        {before}
        "$@"
        code=$?
        {after}
        [ -z "$(ls /run/netns)" ] || exit 98
        exit $code
    """
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "bench", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error of a command that found the disk full."""
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("bench: ")
    assert FULL in last
    return last


@pytest.mark.parametrize("name", ["report.html", "report.json", "report.md"])
def test_a_report_that_has_no_room_leaves_nothing(name: str, tmp_path: Path) -> None:
    source = ROOT / "results" / "matrix.json"
    command = ("report", str(source), "-o", str(tmp_path / name))
    done = bench(tmp_path, "16k", command, after=f'ls -A "{tmp_path}"')
    assert f"{tmp_path / name}: cannot write the output file" in told(done)
    assert done.stdout.split() == []  # no part of a page, and no empty page


@pytest.mark.parametrize("command", ["list checks", "list checks --json", "report results/matrix.json", "--help"])
def test_a_full_standard_output_is_told(command: str) -> None:
    with open("/dev/full", "wb") as full:
        argv = [sys.executable, "-m", "bench", *command.split()]
        done = subprocess.run(argv, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told(done).startswith("bench: standard output: cannot write the output: ")


def test_a_run_whose_trials_have_no_room_keeps_those_it_has(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = bench(tmp_path, "8k", (*TRIAL, "-o", str(output)), after=f'cat "{output}.trials"')
    assert f"{output}.trials: cannot write the trials" in told(done)
    first, *_ = done.stdout.split("\n")
    assert json.loads(first)


def test_a_result_that_has_no_room_leaves_its_trials(tmp_path: Path) -> None:
    """The trials fit, and the result does not. With free space again the run goes on to its end."""
    output = tmp_path / "result.json"
    done = bench(tmp_path, "24k", (*TRIAL, "-o", str(output)), after=f'ls -A "{tmp_path}"')
    told(done)
    assert "result.json.trials" in done.stdout.split()
    assert "result.json" not in done.stdout.split()


@pytest.mark.parametrize("room", ["4k,nr_inodes=2", "4k"])
def test_a_full_state_folder_leaves_nothing(room: str, tmp_path: Path) -> None:
    many = (*TRIAL, "--containers", "60")
    done = bench(tmp_path, room, many, after=f'ls -A "{tmp_path}"', BENCH_STATE=str(tmp_path / "state"))
    assert "cannot write the state file" in told(done)
    assert done.stdout.split() in ([], ["state"])


def test_a_full_cache_is_told(tmp_path: Path) -> None:
    done = bench(tmp_path, "16k", TRIAL, BENCH_CACHE=str(tmp_path))
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.night
def test_a_data_set_that_has_no_room_is_told(tmp_path: Path) -> None:
    """All documents exist, so nothing is measured, and the pages that are made from them do not fit."""
    documents = f'cp -rs "$PWD"/results/* "{tmp_path}"; rm "{tmp_path}"/report.html "{tmp_path}"/answer.md'
    for step in STEPS:
        if step.by_time:  # the data set may lack it, and it is not to be measured here
            documents += f'; ln -sn "$PWD"/results/traffic.json "{tmp_path}"/{step.document} || true'
    done = bench(tmp_path, "64k", ("publish", str(tmp_path)), before=documents)
    assert "report.html: cannot write the output file" in told(done)
