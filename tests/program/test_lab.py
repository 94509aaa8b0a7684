"""`bench lab` as its user runs it: the document, the exit code, the time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import jsonschema
import pytest

from tests.conftest import ROOT
from tests.program.command import BENCH, bench, guests_of


def test_lab_runs_a_command_with_the_document_and_returns_its_code() -> None:
    script = 'cat "$BENCH_LAB"; echo problem >&2; exit 7'
    done = bench("lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "sh", "-c", script)
    assert done.returncode == 7
    assert "problem" in done.stderr
    lab = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs" / "schema" / "2" / "lab.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(lab)
    assert [node["name"] for node in lab["nodes"]] == ["manager1", "worker1", "worker2"]
    assert lab["networks"][0]["subnet"] == "10.0.0.0/24"
    tasks = {task["name"]: task["addresses"]["my-network"] for task in lab["tasks"]}
    assert tasks == {
        "my-web.1": "10.0.0.3",
        "my-web.2": "10.0.0.4",
        "my-web.3": "10.0.0.5",
        "my-busybox.1": "10.0.0.7",
    }


def test_a_time_out_is_exit_124() -> None:
    done = bench("lab", "--dataplane", "direct", "--kernel", "guest", "--timeout", "10", "--", "sleep", "600")
    assert done.returncode == 124
    assert "time is up" in done.stderr


def test_a_frozen_guest_is_given_up_when_its_time_is_up() -> None:
    process = frozen("--timeout", "30")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 124
    assert "time is up" in err


@pytest.mark.night
def test_a_frozen_guest_does_not_keep_the_program_from_ending() -> None:
    process = frozen()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGTERM, -signal.SIGHUP)
    assert err.splitlines()[-1] == f"bench: ended by {signal.Signals(-process.returncode).name}"


def frozen(*options: str) -> subprocess.Popen[str]:
    """A lab whose guest was stopped while its command ran."""
    process = subprocess.Popen(
        [*BENCH, "lab", "--dataplane", "direct", "--kernel", "guest", *options, "--", "sh", "-c", "echo up; sleep 600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    for guest in guests_of(process.pid):
        os.kill(guest, signal.SIGSTOP)
    return process
