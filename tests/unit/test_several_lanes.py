"""Work that several guests share makes the same document as one guest's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import msgspec
import pytest

from bench import api
from bench.kernels import Kernel
from bench.outside import lanes
from bench.outside.dispatch import dispatch
from bench.outside.lanes import Lanes, Share, Told
from dataplanes.errors import GuestPanic
from tests.recorded import COMMANDS, Replay, replay
from tests.unit.conftest import Bench

_T = TypeVar("_T")
RUN = COMMANDS["run"]
MATRIX = COMMANDS["matrix"]


class InTurn(Lanes):
    """A lane for each plane, one after the other in this process, the last one first."""

    def __init__(self, jobs: int | None = None) -> None:
        pass

    def count(self, kernel: Kernel, dataplanes: int, kernels: int = 1, timed: bool = True) -> int:
        return dataplanes

    def deal(self, kernel: Kernel, planes: Sequence[_T], kernels: int = 1, timed: bool = True) -> list[list[_T]]:
        return [[plane] for plane in planes]

    def run(self, shares: Sequence[Share], take: Told, timeout: float | None = None) -> None:
        for share in reversed(shares):
            dispatch(share.job, share.kernel, timeout=timeout, on_event=partial(take, share.kernel.name))


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "Here", InTurn)


def document(path: str) -> object:
    """A document, but for the command that made it."""
    found = api.load(path)
    made = found.result if isinstance(found, api.Measured) else found.matrix
    return msgspec.structs.replace(made, plan=made.plan | {"command": ""})


@pytest.mark.parametrize("command", [RUN, MATRIX], ids=["run", "matrix"])
def test_the_document_is_the_same(bench: Bench, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    assert bench(*command, "-o", "one.json").exit_code == 0
    monkeypatch.setattr(lanes, "Here", InTurn)
    assert bench(*command, "-o", "several.json").exit_code == 0
    assert document("one.json") == document("several.json")


def test_each_guest_measures_whole_planes(bench: Bench, machine: dict[str, Kernel], several: None) -> None:
    done = bench(*RUN)
    assert "9 trials in 3 guests" in done.stderr
    kernel = machine["debian-6.12"]
    assert isinstance(kernel, Replay)
    assert [{trial.dataplane for trial in job.trials} for job in kernel.jobs] == [{"ipvs-lb"}, {"nft-lb"}, {"direct"}]
    assert [[plane.name for plane in job.selections] for job in kernel.jobs] == [["ipvs-lb"], ["nft-lb"], ["direct"]]


def test_what_one_guest_has_done_is_kept_when_another_goes_down(
    bench: Bench, machine: dict[str, Kernel], several: None
) -> None:
    def down() -> None:
        raise GuestPanic("the guest's kernel went down")

    machine["debian-6.12"] = replay(after=2, then=down)  # in its first job
    assert bench(*RUN, "-o", "result.json").exit_code == 255
    machine["debian-6.12"] = second = replay()
    done = bench(*RUN, "-o", "result.json")
    assert done.exit_code == 0, done.output
    assert "7 trials in 3 guests, 2 done before" in done.stderr
    assert [len(job.trials) for job in second.jobs] == [1, 3, 3]
