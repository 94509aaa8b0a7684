"""The kernels that apt offers, and the one that `guest` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kernels import packages

_APT_CACHE = """#!/bin/sh
case "$1" in
pkgnames) printf '%s\\n' linux-image-6.11.0-29-generic linux-image-6.8.0-31-generic linux-image-6.8.0-117-generic \\
    linux-image-6.8.0-31-lowlatency linux-image-generic linux-image-unsigned-6.8.0-31-generic ;;
depends) printf '%s\\n' '<linux-image-amd64>' linux-image-generic '  Depends: linux-image-6.8.0-117-generic' \\
    '  Depends: linux-modules-extra-6.8.0-117-generic' ;;
esac
"""


@pytest.fixture(autouse=True)
def ubuntu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of apt-cache on Ubuntu 24.04."""
    program = tmp_path / "apt-cache"
    program.write_text(_APT_CACHE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    release = {"ID": "ubuntu", "VERSION_ID": "24.04"}
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)


def test_the_newest_of_each_series_is_offered() -> None:
    assert packages.available() == {"ubuntu-6.11": "6.11.0-29-generic", "ubuntu-6.8": "6.8.0-117-generic"}


def test_the_guests_kernel_is_the_one_the_release_comes_with() -> None:
    """It is not the first one by name, which on Ubuntu is a hardware enablement kernel."""
    assert packages.installed_by_default() == "ubuntu-6.8"


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "apt-cache" / "in a file"))
    assert packages.installed_by_default() == "ubuntu-6.8"


def test_apt_is_asked_once_for_it(tmp_path: Path) -> None:
    assert packages.installed_by_default() == "ubuntu-6.8"
    (tmp_path / "apt-cache").write_text("#!/bin/sh\nexit 1\n")
    assert packages.installed_by_default() == "ubuntu-6.8"
