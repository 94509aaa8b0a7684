"""Packets that the machine itself loses are noticed by the kernel's counters."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios import losses
from scenarios.losses import Losses

NEIGHBOURS = "entries  allocs   table_fulls\n00000400 00001245 {:08x}\n00000400 00000e7f 000000d6\n"
QUEUES = "000fb80d {:08x} 00000000\n000e3b22 00000001 00000000\n"


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(losses, "_NEIGHBOURS", tmp_path / "arp_cache")
    monkeypatch.setattr(losses, "_QUEUES", tmp_path / "softnet_stat")
    (tmp_path / "arp_cache").write_text(NEIGHBOURS.format(0x10A), "ascii")
    (tmp_path / "softnet_stat").write_text(QUEUES.format(9), "ascii")
    return tmp_path


def test_a_quiet_machine_loses_nothing(counters: Path) -> None:
    lost = Losses()
    (counters / "softnet_stat").write_text(QUEUES.format(9).replace("000fb80d", "000fb8ff"), "ascii")
    assert lost.told() == ""


def test_a_full_table_of_neighbours_is_told(counters: Path) -> None:
    lost = Losses()
    (counters / "arp_cache").write_text(NEIGHBOURS.format(0x10B), "ascii")
    assert "gc_thresh3" in lost.told()
    assert Losses().told() == ""


def test_a_full_queue_is_told(counters: Path) -> None:
    lost = Losses()
    (counters / "softnet_stat").write_text(QUEUES.format(10), "ascii")
    assert "netdev_max_backlog" in lost.told()


def test_in_a_network_namespace_of_its_own_nothing_is_known_of_the_neighbours(counters: Path) -> None:
    (counters / "arp_cache").unlink()
    assert Losses().told() == ""
