"""What unit tests share: the program in this process, on kernels that tell again what a real one told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench import kernels
from bench.cli import progress
from bench.cli.main import main as program
from bench.kernels import Kernel
from bench.outside import explore
from tests.recorded import replay

Bench = Callable[..., Result]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kernel]:
    """The kernels of this machine, by name; tests change them. There is one guest, which was recorded.

    The machine has one processor, so that all work is done in this process.
    """
    found: dict[str, Kernel] = {"debian-6.12": replay()}

    def resolve(name: str, clock: str | None) -> Kernel:
        kernel = found["debian-6.12" if name == "guest" else name]
        kernel.clock = clock or kernel.clock
        return kernel

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(kernels, "resolve", resolve)
    monkeypatch.setattr(kernels, "list_kernels", lambda: {name: each.release for name, each in found.items()})
    return found


@pytest.fixture
def bench(machine: dict[str, Kernel], signals: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Run the program in this process, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    for each in (progress, explore):
        monkeypatch.setattr(each, "cache", lambda: tmp_path / "cache")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(program, arguments, prog_name="bench")

    return run


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that the program would have died of: it kills itself as its last act, and here must not."""
    found: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append(number))
    return found
