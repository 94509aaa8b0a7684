"""Packets that the machine itself loses are noticed by the kernel's counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios import losses
from scenarios.stopwatch import Steadiness

NEIGHBOURS = "entries  allocs   table_fulls\n00000400 00001245 {:08x}\n00000400 00000e7f 000000d6\n"
QUEUES = "000fb80d {:08x} 00000000\n000e3b22 00000001 00000000\n"


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(losses, "_NEIGHBOURS", tmp_path / "arp_cache")
    monkeypatch.setattr(losses, "_QUEUES", tmp_path / "softnet_stat")
    (tmp_path / "arp_cache").write_text(NEIGHBOURS.format(0x10A), "ascii")
    (tmp_path / "softnet_stat").write_text(QUEUES.format(9), "ascii")
    return tmp_path


def test_a_quiet_machine_is_to_be_believed(counters: Path) -> None:
    steadiness = Steadiness(queues=True)
    (counters / "softnet_stat").write_text(QUEUES.format(9).replace("000fb80d", "000fb8ff"), "ascii")
    assert steadiness.broken() is None


def test_a_full_table_of_neighbours_is_told(counters: Path) -> None:
    steadiness = Steadiness()
    (counters / "arp_cache").write_text(NEIGHBOURS.format(0x10D), "ascii")
    assert "3 more were refused" in str(steadiness.broken())
    assert losses.LIMIT in str(steadiness.broken())
    assert Steadiness().broken() is None


def test_a_full_queue_is_told_unless_a_load_may_have_filled_it(counters: Path) -> None:
    strict, loaded = Steadiness(queues=True), Steadiness()
    (counters / "softnet_stat").write_text(QUEUES.format(10), "ascii")
    assert "netdev_max_backlog" in str(strict.broken())
    assert loaded.broken() is None


def test_in_a_network_namespace_of_its_own_nothing_is_known_of_the_neighbours(counters: Path) -> None:
    (counters / "arp_cache").unlink()
    assert Steadiness().broken() is None


def test_a_counter_that_may_not_be_read_tells_nothing(counters: Path) -> None:
    (counters / "arp_cache").unlink()
    (counters / "arp_cache").mkdir()
    assert losses.neighbours_refused() == 0
