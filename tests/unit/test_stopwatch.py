"""The time that counts for a change, by each clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from scenarios import losses
from scenarios.stopwatch import Steadiness, Taken, timed


def test_waiting_is_time_but_nothing_executed() -> None:
    taken = timed(lambda: time.sleep(0.05))
    assert taken.elapsed_ms >= 50
    assert taken.cpu_ms < 25
    assert (taken.by("wall"), taken.by("instructions")) == (taken.elapsed_ms, taken.cpu_ms)


def test_what_a_program_executes_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.1: pass"
    assert timed(lambda: subprocess.run([sys.executable, "-c", burn], check=True)).cpu_ms >= 100


def test_nothing_took_nothing() -> None:
    assert Taken().by("wall") == 0


def test_a_machine_that_refused_a_neighbour_is_not_to_be_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*processors: str) -> None:
        lines = [f"0000000a {each} 00000001" for each in processors]
        (tmp_path / "arp_cache").write_text("\n".join(["entries  table_fulls allocs", *lines, ""]), "ascii")

    monkeypatch.setattr(losses, "_NEIGHBOURS", tmp_path / "arp_cache")
    count("0000000a", "00000001")
    steadiness = Steadiness()
    assert steadiness.broken() is None
    count("0000000a", "00000010")
    assert "15 more were refused" in str(steadiness.broken())
    assert Steadiness().broken() is None
