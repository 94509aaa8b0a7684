"""A document says which program made it, on which kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import kernels, provenance


def commit(directory: Path) -> str:
    git = ["git", "-C", str(directory), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_is_told_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    assert "revision" not in provenance.tool()
    program, results = tmp_path / "bench" / "cli.py", tmp_path / "results" / "run.json"
    for file in (program, results):
        file.parent.mkdir()
        file.write_text("as committed")
    head = commit(tmp_path)
    results.write_text("measured anew")
    assert provenance.tool()["revision"] == head[:12]
    program.write_text("changed since")
    assert provenance.tool()["revision"] == f"{head[:12]}+"


def test_within_somebody_elses_repository_no_commit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "venv"
    installed.mkdir()
    (installed / "file").touch()
    commit(tmp_path)
    monkeypatch.setattr(provenance, "_ROOT", installed)
    assert "revision" not in provenance.tool()


def test_the_running_kernel_is_emulated_by_nothing() -> None:
    told = provenance.kernel(kernels.resolve("host", None), "asked for")
    assert (told["kernel_name"], told["kernel_reason"], told["emulator"]) == ("host", "asked for", "")
