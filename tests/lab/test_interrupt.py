"""A run may end at any moment, by a signal or by kill -9. Nothing is left, at the latest after `bench clean`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from bench.documents import Job
from bench.kernels.base import in_memory
from dataplanes import catalog
from scenarios import journal

JOB = msgspec.json.encode(Job("lab", "seed", catalog.select("ipvs-container"), command=["sleep", "1000"]))


def left() -> dict[str, object]:
    """Return what a run could leave: namespaces, files, processes, and changes of the starting namespace."""
    commands = ("ip -o address", "ip rule", "ip route", "sysctl -a --pattern ^net.ipv4.(conf|ip_forward|vs)")
    texts = {
        each: subprocess.run(each.split(), capture_output=True, text=True, check=False).stdout for each in commands
    }
    directories = ("/run/netns", "/etc/netns", journal.directory())
    files = {each: sorted(os.listdir(each)) if os.path.isdir(each) else [] for each in directories}
    return {**texts, **files, "processes": running()}


def running() -> list[str]:
    """Return the programs that a lab has started."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = each.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "vipload" in text or "bench.start" in text or text.startswith("sleep 1000"):
            found.append(text)
    return sorted(found)


@pytest.fixture
def clean_before() -> dict[str, object]:
    journal.clean()
    return left()


def start() -> tuple[subprocess.Popen[bytes], int]:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with in_memory("input", JOB) as job:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.start", "inside"],
            env={**os.environ, "BENCH_EVENTS_FD": str(writing), "BENCH_INPUT": f"/proc/self/fd/{job}"},
            pass_fds=(writing, job),
            start_new_session=True,
        )
    os.close(writing)
    return process, reading


def ended(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code. If the run does not end, report what its processes wait for."""
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it does not end:\n{_waiting()}")


def _waiting() -> str:
    told = []
    for each in Path("/proc").glob("[0-9]*"):
        facts = [_read(each / name) for name in ("cmdline", "stat", "wchan", "syscall", "stack")]
        if facts[0].strip("\0"):
            told.append("\n".join([each.name, *facts]).replace("\0", " "))
    return "\n".join(told)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")[:2000]
    except OSError:
        return ""


def time_to_ready() -> float:
    begun = time.monotonic()
    process, reading = start()
    assert b"ready" in os.read(reading, 4096)
    taken = time.monotonic() - begun
    os.killpg(process.pid, signal.SIGTERM)
    ended(process)
    os.close(reading)
    return taken


def wait_until_gone(before: dict[str, object]) -> None:
    """Wait for processes that end with their parent, which takes a moment. Labs of other tests may have some, too."""
    deadline = time.monotonic() + 20
    while running() != before["processes"] and time.monotonic() < deadline:
        time.sleep(0.01)


def test_kill_9_at_ten_random_moments_then_clean(clean_before: dict[str, object]) -> None:
    length = time_to_ready()
    moments = random.Random(10)
    for _ in range(10):
        process, reading = start()
        time.sleep(moments.uniform(0.3, 1.1) * length)
        process.kill()
        ended(process)
        os.close(reading)
        wait_until_gone(clean_before)
        journal.clean()
        assert left() == clean_before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_random_moments_leaves_nothing_to_clean(number: int, clean_before: dict[str, object]) -> None:
    length = time_to_ready()
    moments = random.Random(number)
    for _ in range(3):
        process, reading = start()
        time.sleep(moments.uniform(0.6, 1.2) * length)
        os.killpg(process.pid, number)
        os.killpg(process.pid, number)  # a second, impatient Ctrl-C
        assert ended(process) in (128 + number, -number)
        os.close(reading)
        wait_until_gone(clean_before)
        assert left() == clean_before
        assert journal.clean() == []


def test_clean_leaves_a_live_run_alone() -> None:
    process, reading = start()
    try:
        assert b"ready" in os.read(reading, 4096)
        before = left()
        assert journal.clean() == []
        assert left() == before
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        ended(process)
        os.close(reading)


def test_clean_leaves_a_live_run_alone_also_where_its_owner_cannot_be_seen() -> None:
    process, reading = start()
    try:
        assert b"ready" in os.read(reading, 4096)
        before = left()
        clean = [sys.executable, "-c", "from scenarios import journal; print(journal.clean())"]
        elsewhere = ["unshare", "--pid", "--fork", "--mount-proc", *clean]
        done = subprocess.run(elsewhere, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("[]\n", "")
        assert left() == before
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        ended(process)
        os.close(reading)
