"""A kernel of the user: the values that `--kernel PATH` accepts, and the answers to those it cannot use."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.kernels import own, shares
from bench.kernels.modules import Modules
from dataplanes.errors import Prerequisite, Usage

RELEASE = "6.1.0-1-mine"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def image(path: Path) -> Path:
    """Write a file whose head says that it is a Linux kernel."""
    head = bytearray(0x1000)
    head[0x202:0x206] = b"HdrS"
    head[0x20E:0x210] = (0x300).to_bytes(2, "little")
    head[0x500:0x540] = f"{RELEASE} (x)\0".encode().ljust(0x40, b"\0")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head)
    return path


def package(directory: Path) -> str:
    """Build a .deb from a directory's files."""
    control = directory / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: x\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n")
    made = directory.with_suffix(".deb")
    subprocess.run(("dpkg-deb", "--root-owner-group", "-b", directory, made), check=True, capture_output=True)
    return str(made)


@pytest.mark.parametrize("names", [("a.deb", "vmlinuz"), ("vmlinuz", "modules", "more")])
def test_what_is_neither_is_refused_with_the_forms(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"VMLINUZ:MODULES or PACKAGE\.deb"):
        own.find(":".join(str(tmp_path / name) for name in names))


def test_a_package_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"x\.deb: no such package"):
        own.find(str(tmp_path / "x.deb"))
    (tmp_path / "x.deb").write_text("no archive")
    with pytest.raises(Usage, match=r"cannot unpack x\.deb"):
        own.find(str(tmp_path / "x.deb"))


def test_a_package_without_a_kernel_names_the_one_that_has_it(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    with pytest.raises(Usage, match=r"no kernel in the package.*linux-image-amd64 only depends on it"):
        own.find(package(tmp_path / "meta"))


def test_a_kernel_whose_modules_are_in_another_package_says_so(tmp_path: Path) -> None:
    image(tmp_path / "image" / "boot" / f"vmlinuz-{RELEASE}")
    with pytest.raises(Usage, match=rf"no modules of {RELEASE}.*image\.deb:linux-modules-{RELEASE}"):
        own.find(package(tmp_path / "image"))
    assert not list((tmp_path / "cache" / "own").iterdir())


def test_a_folder_without_modules_is_refused_with_where_they_were_looked_for(tmp_path: Path) -> None:
    found = image(tmp_path / "vmlinuz")
    with pytest.raises(Usage, match=rf"lib/modules.*{RELEASE}/modules\.dep or {RELEASE}/kernel/"):
        own.find(str(found))
    directory = tmp_path / "lib" / "modules" / RELEASE
    directory.mkdir(parents=True)
    (directory / "modules.dep").touch()
    assert own.find(str(found))[1].directory == directory


def test_a_kernel_without_a_way_to_the_files_says_what_it_lacks(tmp_path: Path) -> None:
    builtin = tmp_path / "modules.builtin"
    builtin.write_text("kernel/fs/9p/9p.ko\n")
    with pytest.raises(Prerequisite, match=r"neither 9p .* nor virtiofs"):
        shares.transport(Modules(tmp_path))
    builtin.write_text("kernel/fs/fuse/virtiofs.ko\n")
    assert shares.transport(Modules(tmp_path)) == "virtiofs"
    builtin.write_text("kernel/fs/fuse/virtiofs.ko\nkernel/fs/9p/9p.ko\nkernel/net/9p/9pnet_virtio.ko\n")
    assert shares.transport(Modules(tmp_path)) == "9p"


def test_virtiofs_is_refused_where_its_daemon_cannot_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules.builtin").write_text("kernel/fs/fuse/virtiofs.ko\n")
    monkeypatch.setattr(shares, "_DAEMONS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Prerequisite, match=r"no virtiofsd.*apt-get install virtiofsd"):
        shares.demand(Modules(tmp_path))

    daemon = tmp_path / "virtiofsd"
    daemon.write_text("#!/bin/sh\necho QEMU\\'s own\n")
    daemon.chmod(0o755)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(Prerequisite, match=r"not root.*run it as root, install virtiofsd 1.13 or later, or take"):
        shares.demand(Modules(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    shares.demand(Modules(tmp_path))
    daemon.write_text("#!/bin/sh\necho --preserve-noatime --no-announce-submounts\n")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    shares.demand(Modules(tmp_path))
