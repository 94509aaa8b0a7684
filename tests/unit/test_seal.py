"""A kernel in the cache is what was unpacked there, or it is fetched again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.kernels import apt, packages, seal
from dataplanes.errors import Prerequisite


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """Return a kernel as it was unpacked."""
    kernel = tmp_path / "kernels" / "debian-6.1"
    _unpack(kernel)
    seal.write(kernel)
    return kernel


def _unpack(kernel: Path) -> None:
    (kernel / "lib/modules/6.1.0").mkdir(parents=True)
    (kernel / "lib/modules/6.1.0/modules.dep").write_text("", "ascii")
    (kernel / "lib/modules/6.1.0/ip_vs.ko").write_bytes(b"module" * 100)
    (kernel / "vmlinux").write_bytes(b"kernel" * 1000)


def _cut(kernel: Path) -> None:
    os.truncate(kernel / "vmlinux", 100)


def _rot(kernel: Path) -> None:
    """A bit that no file system wrote has flipped, and the times are as before. It is noticed once per boot."""
    before = (kernel / "vmlinux").stat()
    (kernel / "vmlinux").write_bytes(b"karnel" * 1000)
    os.utime(kernel / "vmlinux", ns=(before.st_atime_ns, before.st_mtime_ns))
    (kernel / ".verified").unlink(missing_ok=True)


def _changed(kernel: Path) -> None:
    (kernel / "vmlinux").write_bytes(b"karnel" * 1000)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (_cut, "vmlinux has 100 bytes, not 6,000"),
    "changed": (_changed, "vmlinux has another content than what was unpacked"),
    "rotten": (_rot, "vmlinux has another content than what was unpacked"),
    "missing": (lambda kernel: (kernel / "lib/modules/6.1.0/ip_vs.ko").unlink(), "ip_vs.ko is missing"),
    "added": (lambda kernel: (kernel / "lib/modules/6.1.0/evil.ko").write_bytes(b""), "evil.ko was put there"),
    "unsealed": (lambda kernel: (kernel / ".seal.json").unlink(), "it has no seal"),
    "the seal cut short": (lambda kernel: os.truncate(kernel / ".seal.json", 50), "it has no seal"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_seen(name: str, sealed: Path) -> None:
    assert seal.broken(sealed) == ""
    damage, told = DAMAGE[name]
    damage(sealed)
    assert told in seal.broken(sealed)


def test_a_cache_that_was_copied_is_whole(sealed: Path, tmp_path: Path) -> None:
    shutil.copytree(sealed, tmp_path / "copy", copy_function=shutil.copyfile)  # with new times
    assert seal.broken(tmp_path / "copy") == ""


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_made_anew(name: str, sealed: Path) -> None:
    DAMAGE[name][0](sealed)
    seal.once(sealed, _unpack)
    assert seal.broken(sealed) == ""
    assert (sealed / "vmlinux").read_bytes() == b"kernel" * 1000
    assert sorted(path.name for path in sealed.parent.iterdir()) == ["debian-6.1"]


def test_what_is_damaged_and_cannot_be_fetched_is_not_booted(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(sealed.parents[1]))
    monkeypatch.setattr(apt, "ask", lambda *arguments: [])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    _cut(sealed)
    with pytest.raises(
        Prerequisite, match=r"the kernel in the cache is damaged: vmlinux has 100 bytes, not 6,000, and"
    ):
        packages.fetch("debian-6.1")


def test_a_full_disk_leaves_what_was_there(sealed: Path) -> None:
    def full(target: Path) -> None:
        target.mkdir()
        raise OSError(28, "No space left on device")

    _cut(sealed)
    with pytest.raises(Prerequisite, match="cannot write the kernel: No space left on device"):
        seal.once(sealed, full)
    assert sorted(path.name for path in sealed.parent.iterdir()) == ["debian-6.1"]


@given(data=st.binary(max_size=100))
def test_a_seal_of_anything_is_a_broken_one(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel = tmp_path_factory.mktemp("kernel")
    (kernel / ".seal.json").write_bytes(data)
    assert seal.broken(kernel)
