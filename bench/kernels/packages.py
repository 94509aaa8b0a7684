"""Kernels from the distribution's packages: apt downloads and verifies them, and they are unpacked and not installed.

A kernel is named after its series, such as debian-6.1. It stays as it is in the cache until it is removed there, so
figures stay comparable. CACHE/kernels/NAME/ holds vmlinuz, vmlinux, config and lib/modules/RELEASE, all under a seal.
"""

from __future__ import annotations

import lzma
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec

from bench.kernels import apt, seal, vmlinux
from dataplanes import files
from dataplanes.errors import Prerequisite
from dataplanes.kernel.process import tied
from dataplanes.paths import cache

_KernelName = Annotated[str, msgspec.Meta(pattern=r"^(debian|ubuntu)-\d+\.\d+$")]
_IMAGE = re.compile(r"linux-image-((\d+\.\d+)\.[0-9.]+(?:-\d+|\+deb\d+)?-(?:amd64|generic))\Z")
_KEEP = (
    *("kernel/net", "kernel/lib", "kernel/crypto", "kernel/arch", "kernel/kernel"),
    *("kernel/fs/9p", "kernel/fs/netfs", "kernel/fs/fscache", "kernel/fs/overlayfs", "kernel/fs/fuse"),
    *("kernel/drivers/net", "kernel/drivers/virtio", "kernel/drivers/char"),
)
_DROP = ("kernel/drivers/net/wireless", "kernel/drivers/net/ethernet", "kernel/drivers/net/usb", "kernel/net/bluetooth")


def directory(name: str) -> Path:
    """Return the directory of a packaged kernel in the cache."""
    return cache() / "kernels" / name


def release(path: Path) -> str | None:
    """Return the release of the kernel that is unpacked there, or None."""
    found = sorted(path.glob("lib/modules/*/modules.dep"))
    return found[0].parent.name if found and (path / "vmlinuz").exists() else None


def unpacked() -> list[str]:
    """Return the names of the kernels in the cache."""
    return sorted(path.name for path in (cache() / "kernels").glob("*-*") if release(path))


def available() -> dict[str, str]:
    """Return the kernels that apt can download: name -> release, the newest of each series."""
    newest: dict[str, tuple[list[int], str]] = {}
    for name, found in _images(apt.ask("pkgnames", "linux-image-")):
        version = [int(number) for number in re.findall(r"\d+", found)]
        newest[name] = max(newest.get(name, ([], "")), (version, found))
    return {name: found for name, (_, found) in sorted(newest.items())}


def installed_by_default() -> str | None:
    """Return the name of the kernel that this release of the distribution comes with, or None without apt.

    The kernel's metapackage names it.

    apt is asked once per release. Without an index, as in containers, each answer takes apt a second.
    """
    mark = _default_mark()
    if mark and (kept := files.kept(mark, _KernelName)):
        return kept
    wanted = _images(apt.ask("depends", "linux-image-amd64", "linux-image-generic"))
    found = next((name for name, _ in wanted), None)
    if found and mark:
        with suppress(Prerequisite):  # a cache that is only readable still has its kernels
            files.keep(mark, msgspec.json.encode(found))
    return found


def _default_mark() -> Path | None:
    """Return the file in which the answer is kept, or None on a distribution that has no releases."""
    try:
        about = platform.freedesktop_os_release()
        return cache() / "default" / f"{about['ID']}-{about['VERSION_ID']}"
    except (OSError, KeyError):
        return None


def fetch(name: str) -> Path:
    """Return a kernel's directory. Download and unpack the kernel if it is missing, or not as it was unpacked.

    Raises Prerequisite without apt, for an unknown kernel, without room, or if the download fails.
    """
    target = directory(name)
    wrong = seal.broken(target)
    if not wrong:
        return target
    try:
        return seal.once(target, lambda made: _fetch(name, release(target), made))
    except Prerequisite as error:
        if not target.exists():
            raise
        told = f"{wrong}, and it cannot be fetched anew: {error}"
        raise Prerequisite("the kernel in the cache is damaged", where=str(target), why=told) from error


def _fetch(name: str, kept: str | None, made: Path) -> None:
    """Download and unpack a kernel: the release that is in the cache, if apt still offers it, or else the newest."""
    wanted = available()
    if name not in wanted and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(("apt-get", "update", "-q"), capture_output=True, check=False, preexec_fn=tied())
        wanted = available()
    if name not in wanted:
        known = ", ".join(wanted) or "none; run apt-get update as root"
        raise Prerequisite(f"no kernel {name}", why="apt does not offer it", fix=f"there are: {known}")
    offered = [found for _, found in _images(apt.ask("pkgnames", "linux-image-"))]
    chosen = kept if kept in offered else wanted[name]
    debs = made.with_name("debs")
    debs.mkdir()
    _unpack(chosen, apt.download(_image_packages(chosen), debs), made)


def headers(kernel: str) -> Path:
    """Return kernel headers for bcc: those of this release if possible, or else any (see dataplanes/ebpf_object.py).

    Raises Prerequisite if there are none.
    """
    own = Path("/lib/modules", kernel, "build")
    if own.exists():
        return own
    base = cache() / "headers"
    present = sorted(base.glob("[0-9]*"))
    if present:
        return base / kernel if base / kernel in present else present[-1]
    offered = list(available().values())
    wanted = kernel if kernel in offered else next(iter(offered), kernel)
    target = base / wanted
    with seal.lock(base):
        if not target.exists():
            seal.demand_room(base)
            with seal.work(target) as work:
                debs = apt.download([f"linux-headers-{wanted}", f"linux-headers-{_common(wanted)}"], work)
                _merge_headers(wanted, debs, work / "made").rename(target)
    return target


def _common(kernel: str) -> str:
    """Return the package with the headers that all flavours share."""
    return f"{kernel.removesuffix('-amd64')}-common" if kernel.endswith("-amd64") else kernel.removesuffix("-generic")


def _merge_headers(kernel: str, debs: Sequence[Path], target: Path) -> Path:
    """Join the two directories into which distributions split headers, because bcc searches one."""
    whole = target.with_name("whole")
    apt.extract(debs, whole)
    for name in (_common(kernel), kernel):
        for part in ("include", "arch/x86"):
            source = whole / "usr" / "src" / f"linux-headers-{name}" / part
            shutil.copytree(source, target / part, dirs_exist_ok=True, symlinks=True)
    return target


def _image_packages(kernel: str) -> list[str]:
    packages = [f"linux-image-{kernel}"]
    if kernel.endswith("-generic"):  # Ubuntu has the modules in a separate package
        packages += [f"linux-modules-{kernel}", f"linux-modules-extra-{kernel}"]
    return packages


def _unpack(kernel: str, debs: Sequence[Path], target: Path) -> Path:
    whole = target.with_name("whole")
    apt.extract(debs, whole)
    modules = next(iter([*whole.glob(f"lib/modules/{kernel}"), *whole.glob(f"usr/lib/modules/{kernel}")]))
    return assemble(kernel, whole, modules, target)


def assemble(kernel: str, whole: Path, modules: Path, target: Path) -> Path:
    """Make the directory of a kernel from the files of its packages."""
    assemble_modules(modules, target, shutil.move)
    shutil.move(whole / "boot" / f"vmlinuz-{kernel}", target / "vmlinuz")
    configs = [
        *whole.glob(f"boot/config-{kernel}"),
        *whole.glob(f"usr/lib/modules/{kernel}/config"),
        modules / "config",
    ]
    for config in [path for path in configs if path.exists()][:1]:
        shutil.copy(config, target / "config")
    vmlinux.unpack(target)
    return target


def assemble_modules(modules: Path, target: Path, bring: Callable[[Path, Path], object]) -> Path:
    """Copy the modules that a guest may need to target/lib/modules, uncompressed, with their modules.dep."""
    kept = target / "lib" / "modules" / modules.name
    kept.mkdir(parents=True)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        if (modules / name).exists():
            bring(modules / name, kept / name)
    for part in _KEEP:
        if (modules / part).is_dir():
            (kept / part).parent.mkdir(parents=True, exist_ok=True)
            bring(modules / part, kept / part)
    for part in _DROP:
        shutil.rmtree(kept / part, ignore_errors=True)
    _decompress(kept)
    depmod = shutil.which("depmod", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if depmod is None:
        raise Prerequisite("depmod is not installed", fix="apt-get install kmod")
    _run(depmod, "-b", str(target), modules.name)
    return kept


def _decompress(modules: Path) -> None:
    """Run depmod here, because in a guest it takes ten times as long, at every start."""
    for path in modules.rglob("*.ko.xz"):
        try:
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        except lzma.LZMAError as error:
            raise Prerequisite("cannot unpack a kernel module", where=path.name, why=str(error)) from error
        path.unlink()
    packed = [str(path) for path in modules.rglob("*.ko.zst")]
    if packed:
        if shutil.which("zstd") is None:
            raise Prerequisite(
                "zstd is not installed", why="this kernel's modules are compressed with it", fix="apt-get install zstd"
            )
        _run("zstd", "-q", "-d", "--rm", *packed)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, preexec_fn=tied())
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Prerequisite(f"{os.path.basename(argv[0])} failed on the kernel's modules", why=why)


def _images(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return the name and release of each package that is a kernel: linux-image-6.8.0-31-generic is ubuntu-6.8."""
    for match in filter(None, map(_IMAGE.match, packages)):
        yield f"{'debian' if match[1].endswith('-amd64') else 'ubuntu'}-{match[2]}", match[1]
