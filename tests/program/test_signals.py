"""Signals at any time: the program cleans up, takes its guest along, and ends as a program without handlers does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.program.command import BENCH, bench, guests_of
from tests.storm import is_ours

DOCUMENTS = (str(ROOT / "results" / "connections.json"), str(ROOT / "results" / "matrix.json"))


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("list", "checks"),
        ("list", "dataplanes", "--json"),
        ("completion", "bash"),
        ("compare", DOCUMENTS[0], DOCUMENTS[0]),
        ("compare", DOCUMENTS[1], DOCUMENTS[1]),
        ("report", *DOCUMENTS),
        ("answer", *DOCUMENTS),
        ("run", "--dataplane", "direct", "--kernel", "guest", "--dry-run"),
        ("lab", "--dataplane", "direct", "--kernel", "guest", "--", "head", "-c", "200000", "/dev/zero"),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone_is_no_regression(command: tuple[str, ...]) -> None:
    """`bench compare ... | head` exited with 1, which means a regression. Now it ends by SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*BENCH, *command], stdout=writing, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=120
        )
    finally:
        os.close(writing)
    assert done.returncode == -signal.SIGPIPE, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def signalled(number: int, *lab: str, seconds: int) -> subprocess.Popen[bytes]:
    """Return a lab in a guest that gets a signal while its command sleeps."""
    process = subprocess.Popen(
        [*lab, "--kernel", "guest", "--", "sh", "-c", f"echo up; sleep {seconds}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    return process


def test_sigint_ends_the_guest_and_is_passed_on() -> None:
    process = signalled(signal.SIGINT, *BENCH, "lab", "-d", "ipvs-container", seconds=600)
    assert process.wait(60) == -signal.SIGINT
    assert not guests_of(process.pid)


@pytest.mark.parametrize("seconds", [0, 0.5, 1, 2, 5])
def test_a_signal_while_the_guest_boots_or_its_command_starts_is_not_lost(seconds: float) -> None:
    busy = ("sh", "-c", "while :; do :; done")  # to sleep would take no time
    process = subprocess.Popen(  # on one processor, where a command that is just starting does not lead its session yet
        [*BENCH, "lab", "-d", "ipvs-container", "--kernel", "guest", "--clock", "instructions", "--", *busy],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not guests_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(30) == -signal.SIGINT
    finally:
        process.kill()
    assert not guests_of(process.pid)


def test_kill_9_takes_the_guest_along() -> None:
    process = subprocess.Popen(
        [*BENCH, "lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "sleep", "600"],
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    guests = guests_of(process.pid)
    while not guests and time.monotonic() < deadline:
        time.sleep(0.05)
        guests = guests_of(process.pid)
    assert guests
    process.kill()
    process.wait()
    assert bench("clean").returncode == 0  # it may not know of a guest that was just started
    while any(Path(f"/proc/{pid}").exists() for pid in guests) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in guests)


def test_nohup_is_not_ended_by_a_hang_up() -> None:
    process = signalled(signal.SIGHUP, "nohup", *BENCH, "lab", "-d", "direct", seconds=2)
    assert process.wait(60) == 0


def test_an_interrupt_in_the_first_second_is_no_traceback(tmp_path: Path) -> None:
    """The start of the interpreter itself, some 20 ms on an idle machine, does not count."""
    for moment in range(4, 60, 4):
        with subprocess.Popen(
            [*BENCH, "list", "checks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as it:
            time.sleep(moment / 100)
            it.send_signal(signal.SIGINT)
            _, err = it.communicate(timeout=30)
        assert it.returncode in (0, -signal.SIGINT)
        assert not is_ours(err), moment
