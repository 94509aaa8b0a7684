"""Trials on several machines: a real scheduler and real workers, on loopback, and what is left when one is killed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from tests.conftest import ROOT
from tests.program.command import BENCH, bench

pytestmark = pytest.mark.program
RUN = ("run", "--dataplane", "nft-lb", "--kernel", "guest", "--clock", "instructions", "--repeat", "3", "-n", "400")
DASK = str(Path(sys.executable).with_name("dask"))


class Cluster:
    """A scheduler, and workers with a state directory each."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._file = directory / "scheduler.json"
        self._start("scheduler", "--port", "0")
        deadline = time.monotonic() + 60
        while not self._file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.address: str = json.loads(self._file.read_text("utf-8"))["address"]

    def worker(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        where = ("--local-directory", str(self._directory), "--nthreads", "1", "--no-nanny")
        return self._start("worker", *where, BENCH_STATE=str(self._directory / name), **environment)

    def have(self, workers: int) -> None:
        """Wait until so many workers are there."""
        with Client(self.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(workers, timeout=60)

    def _start(self, kind: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        listens = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self._file))
        environ = {**os.environ, "DASK_LOGGING__DISTRIBUTED": "error", **environment}
        process = subprocess.Popen([DASK, kind, *listens, *options], env=environ, cwd=self._directory)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        return process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def descendants(pid: int) -> list[int]:
    """The processes below a process: its lanes, and their guests."""
    children = Path(f"/proc/{pid}/task")
    found: list[int] = []
    for task in children.glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, task.read_text("ascii").split())
    return [*found, *(below for child in found for below in descendants(child))]


class Guests:
    """The processes below some workers, as they were once a guest ran."""

    def __init__(self, *workers: subprocess.Popen[bytes]) -> None:
        self._handles, commands = [], []
        for pid in (pid for worker in workers for pid in descendants(worker.pid)):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                commands.append(Path(f"/proc/{pid}/cmdline").read_bytes())
                self._handles.append(os.pidfd_open(pid))
        assert any(b"qemu" in command for command in commands)

    def ended(self, seconds: float) -> bool:
        """True if all of them end within so many seconds."""
        deadline = time.monotonic() + seconds
        left = self._handles
        while left and time.monotonic() < deadline:
            gone, _, _ = select.select(left, [], [], deadline - time.monotonic())
            left = [each for each in left if each not in gone]
        for each in self._handles:
            os.close(each)
        return not left


def trials(path: Path) -> list[dict[str, Any]]:
    """The trials of a run that goes on, as far as they have ended."""
    lines = path.read_text("utf-8").splitlines()[1:] if path.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [event["data"] for event in events if event["kind"] == "trial"]


def begun(cluster: Cluster, output: Path, rounds: int) -> subprocess.Popen[str]:
    """A run on the cluster, once some trial of a round has ended."""
    command = [*BENCH, *RUN, "--cluster", cluster.address, "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not any(trial.get("round") == rounds for trial in trials(Path(f"{output}.trials"))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.night
def test_a_worker_is_killed_in_the_middle_and_the_document_is_a_local_one(cluster: Cluster, tmp_path: Path) -> None:
    local, dealt = tmp_path / "local.json", tmp_path / "dealt.json"
    workers = [cluster.worker("one"), cluster.worker("two")]
    cluster.have(2)
    run = begun(cluster, dealt, 1)
    guests = Guests(workers[0])
    workers[0].kill()
    assert guests.ended(10)
    _, said = run.communicate(timeout=240)
    assert run.returncode == 0, said
    assert "is lost, and worker" in said
    assert bench("clean", BENCH_STATE=str(tmp_path / "one")).returncode == 0

    assert bench(*RUN, "-o", str(local)).returncode == 0
    here, there = (json.loads(path.read_bytes()) for path in (local, dealt))
    (machine,) = there["environment"].pop("machines")
    assert machine["cpus"] == os.cpu_count()
    assert here["environment"].keys() == there["environment"].keys()
    assert len(here["trials"]) == len(there["trials"]) == 6
    for one, other in zip(here["trials"], there["trials"], strict=True):
        figures, others = one.pop("figures"), other.pop("figures")
        assert (figures.keys(), one["work"].pop("elapsed_ns") > 0) == (
            others.keys(),
            other["work"].pop("elapsed_ns") > 0,
        )
        assert one == other  # what answered how often, what the kernel held, which settings were in force
        if not one["warmup"]:
            assert others["instructions_per_connection"] == pytest.approx(figures["instructions_per_connection"], 0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.night)])
def test_guests_end_with_the_command(cluster: Cluster, tmp_path: Path, number: int) -> None:
    worker = cluster.worker("one")
    run = begun(cluster, tmp_path / "r.json", 1)
    guests = Guests(worker)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == -number
    assert guests.ended(30 if number == signal.SIGKILL else 0.1), said
    assert "Traceback" not in said
    deadline = time.monotonic() + 10
    while (tmp_path / "one").exists():  # the worker's state files, which go with the last of them
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_with_another_program_is_refused_before_the_first_trial(cluster: Cluster, tmp_path: Path) -> None:
    for package in ("bench", "dataplanes", "scenarios"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package)
    with (tmp_path / "other" / "dataplanes" / "nft.py").open("a") as file:
        file.write("# changed\n")
    cluster.worker("one", PYTHONPATH=str(tmp_path / "other"))
    done = bench(*RUN, "--cluster", cluster.address)
    assert done.returncode == 3, done.stderr
    assert "bench: worker tcp://127.0.0.1:" in done.stderr
    assert "this machine differs from the one of the command: sources is " in done.stderr
