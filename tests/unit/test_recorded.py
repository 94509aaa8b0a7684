"""The tool that records: what it writes down of a kernel is what the kernel told, and can be told again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.kernels import Kernel
from tests import recorded
from tests.recorded import Replay, replay
from tests.unit.conftest import Bench


@pytest.mark.parametrize("name", recorded.COMMANDS)
def test_a_recording_of_a_replay_is_the_recording(bench: Bench, name: str) -> None:
    """This also says at once that the program asks a kernel for something else than when it was recorded."""
    made, kept = recorded.record(recorded.COMMANDS[name]), recorded.read(name)
    assert made.job == kept.job, "record anew: python -m tests.recorded tests/recordings"
    assert msgspec.structs.replace(made, command=kept.command) == kept


def test_a_recording_is_a_line_for_each_event(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "RECORDINGS", tmp_path)
    kept = recorded.record(recorded.COMMANDS["lab"])
    recorded.main(tmp_path, ["lab"])
    assert len((tmp_path / "lab.jsonl").read_bytes().splitlines()) == 1 + len(kept.events)
    assert recorded.read("lab") == kept


def test_what_was_not_recorded_is_not_made_up(bench: Bench, machine: dict[str, Kernel]) -> None:
    done = bench("run", "-d", "nft-host", "--kernel", "debian-6.12")
    assert isinstance(done.exception, AssertionError)
    assert "not recorded" in str(done.exception)
    machine["debian-6.12"] = kernel = replay()
    assert isinstance(kernel, Replay)
    assert isinstance(bench("inspect", "-d", "nft-host", "--kernel", "debian-6.12").exception, AssertionError)
