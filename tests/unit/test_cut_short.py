"""A run that is cut short keeps what has ended, says why in a line, and goes on where it was."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest

from bench import api
from bench.documents import Event
from bench.kernels import Kernel
from dataplanes.errors import BenchError, GuestPanic, KernelRefused, Prerequisite, TimedOut, Unsupported, Usage
from dataplanes.kernel import interrupt
from tests.recorded import MATRIX, RUN, Replay, replay
from tests.unit.conftest import Bench

TO = (*RUN, "-o", "result.json")


def down() -> None:
    raise GuestPanic("the guest's kernel went down", where="debian-6.12", why="Kernel panic - not syncing: Fatal")


def keys(kernel: Kernel) -> list[tuple[object, ...]]:
    """The trials that a kernel was asked for."""
    assert isinstance(kernel, Replay)
    return [trial.key() for job in kernel.jobs for trial in job.trials]


def figures(path: str) -> list[dict[str, object]]:
    found = api.load(path)
    assert isinstance(found, api.Measured)
    return found.rows()


def test_a_run_goes_on_where_its_kernel_went_down(bench: Bench, machine: dict[str, Kernel]) -> None:
    bench(*RUN, "-o", "whole.json")
    machine["debian-6.12"] = first = replay(after=3, then=down)
    done = bench(*TO)
    assert done.exit_code == 255
    assert done.stderr.splitlines()[-1] == (
        "bench: debian-6.12: the guest's kernel went down: Kernel panic - not syncing: Fatal"
    )
    assert not Path("result.json").exists()
    assert len(Path("result.json.trials").read_bytes().splitlines()) == 1 + 1 + 3  # the run, the environment, trials

    machine["debian-6.12"] = second = replay()
    done = bench(*TO)
    assert done.exit_code == 0, done.output
    assert "3 trials, 3 done before" in done.stderr
    assert keys(second) == keys(first)[3:]
    assert figures("result.json") == figures("whole.json")
    assert not Path("result.json.trials").exists()


def test_a_run_of_which_all_was_done_asks_the_kernel_for_nothing(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = replay(after=6, then=down)
    assert bench(*TO).exit_code == 255
    machine["debian-6.12"] = second = replay()
    assert bench(*TO).exit_code == 0
    assert keys(second) == []
    assert len({row["round"] for row in figures("result.json")}) == 3


@pytest.mark.parametrize("change", [("--connections", "300"), ("--repeat", "2")])
def test_the_trials_of_another_plan_are_begun_anew(
    bench: Bench, machine: dict[str, Kernel], change: tuple[str, str]
) -> None:
    machine["debian-6.12"] = replay(after=3, then=down)
    bench(*TO)
    machine["debian-6.12"] = second = replay()
    done = bench(*TO, *change)
    assert done.exit_code == 0, done.output
    assert "result.json.trials is of another run, program or kernel: begun anew" in done.stderr
    assert len(keys(second)) == len(set(keys(second))) >= 4


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_signal_ends_the_run_of_which_the_trials_stay(
    bench: Bench, machine: dict[str, Kernel], deadly: list[int], number: signal.Signals
) -> None:
    machine["debian-6.12"] = replay(after=2, then=partial(signal.raise_signal, number))
    done = bench(*TO)
    assert deadly == [number]
    assert f"bench: ended by {number.name}" in done.stderr
    assert len(Path("result.json.trials").read_bytes().splitlines()) == 1 + 1 + 2
    assert not Path("result.json").exists()


ERRORS = [
    Usage("no such thing", fix="another"),
    Prerequisite("no bcc", why="it profiles", fix="apt-get install python3-bpfcc"),
    Unsupported("this plane cannot"),
    KernelRefused("nft: No such file", where="worker1", why="EEXIST"),
    TimedOut("time is up", where="bench", why="3 s"),
    BenchError("something else"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "arguments", [RUN, ("inspect", "-d", "nft-lb", "--kernel", "debian-6.12")], ids=["run", "inspect"]
)
def test_an_error_of_the_inside_is_told_outside(
    bench: Bench, machine: dict[str, Kernel], error: BenchError, arguments: tuple[str, ...]
) -> None:
    machine["debian-6.12"] = replay(edit=lambda event: Event.of(error))
    done = bench(*arguments)
    assert done.exit_code == error.exit_code
    assert done.stderr.splitlines()[-1] == f"bench: {error}"
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [RUN, MATRIX], ids=["run", "matrix"])
def test_an_exit_code_without_a_reason_is_an_error(
    bench: Bench, machine: dict[str, Kernel], arguments: tuple[str, ...]
) -> None:
    machine["debian-6.12"] = replay(code=9)
    done = bench(*arguments)
    assert done.exit_code == 1
    assert "the run ended early: exit code 9" in done.stderr
