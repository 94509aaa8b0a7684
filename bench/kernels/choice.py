"""The list of kernels, and the kernel that a name means."""

from __future__ import annotations

import difflib
import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec

from bench.kernels import own, packages, shares
from bench.kernels.base import Command, Kernel
from bench.kernels.guest import QEMU, Guest
from bench.kernels.host import HostKernel
from bench.kernels.modules import Modules
from bench.kernels.vmlinux import bootable
from dataplanes import files
from dataplanes.errors import BenchError, Prerequisite, Usage
from dataplanes.paths import cache

_PROBE_SECONDS = 20.0
PUBLISHED = ("debian-6.1", "debian-6.12")
"""The kernels for which figures are published."""


def list_kernels() -> dict[str, str]:
    """Return every kernel that can be named, with its description."""
    found = {"host": f"{platform.release()}, the running kernel"}
    try:
        offered = packages.available()
    except Prerequisite:
        offered = {}
    for name in dict.fromkeys((*packages.unpacked(), *offered)):
        release = packages.release(packages.directory(name))
        found[name] = f"{release or offered[name]}, in a guest" + ("" if release else " (to be downloaded)")
    return found


def expand(names: str) -> list[str]:
    """Return the kernels of a comma-separated list.

    `guests` means those with published figures, or the distribution's own.
    """
    found: list[str] = []
    for name in names.split(","):
        offered = [each for each in PUBLISHED if _known(each)] if name == "guests" else [name]
        found += offered or ["guest"]
    return list(dict.fromkeys(found))


def resolve(name: str, clock: str | None) -> Kernel:
    """Return the kernel of a name: host, guest (the distribution's own), NAME, or a path (bench.kernels.own).

    Download it if necessary. Raises Usage for a kernel that does not exist, and Prerequisite for one that cannot be
    had.
    """
    if name == "host":
        if clock == "instructions":
            raise Usage("the host has no instruction clock", fix="use --kernel guest")
        return HostKernel()
    if "/" in name or name.endswith(".deb"):
        return _guest(name, clock, *own.find(name))
    if name == "guest":
        name = _own()
    elif not _known(name):
        near = difflib.get_close_matches(name, [*list_kernels(), "auto", "guest"], 1)
        hint = f"did you mean {near[0]}?" if near else "`bench list kernels` shows them"
        raise Usage(f"unknown kernel {name!r}", fix=hint)
    path = packages.fetch(name)
    modules = Modules(path / "lib" / "modules" / str(packages.release(path)))
    return _guest(name, clock, bootable(path), modules, path / "config")


def _known(name: str) -> bool:
    """Return True if the kernel exists. apt is not asked for one that is already unpacked."""
    return name in packages.unpacked() or name in list_kernels()


def _own() -> str:
    """Return the kernel that the distribution comes with; without apt, or for another kind, the first one."""
    try:
        default = packages.installed_by_default()
    except Prerequisite:
        default = None
    if default and _known(default):
        return default
    return next((name for name in list_kernels() if name != "host"), PUBLISHED[0])


def _guest(name: str, clock: str | None, vmlinuz: Path, modules: Modules, config: Path) -> Kernel:
    shares.demand(modules)
    kvm = clock != "instructions" and _kvm_works(name, vmlinuz, modules, config)
    return Guest(name, clock or ("wall" if kvm else "instructions"), vmlinuz, modules, config, kvm=kvm)


def _kvm_works(name: str, vmlinuz: Path, modules: Modules, config: Path) -> bool:
    """Return True if KVM works.

    It is found out once, by booting: /dev/kvm may exist and not work, and QEMU then hangs or aborts.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    mark = cache() / "kvm" / f"{modules.directory.name}-{platform.release()}-{_qemu_version()}"
    works = files.kept(mark, bool)
    if works is None:
        probe = Guest(name, "wall", vmlinuz, modules, config, kvm=True)
        command = Command(("true",), dict(os.environ), "/", timeout=_PROBE_SECONDS)
        try:
            works = probe.execute(command, lambda line: None) == 0
        except BenchError:
            works = False
        with suppress(Prerequisite):  # then it is found out every time
            files.keep(mark, msgspec.json.encode(works))
    return works


def _qemu_version() -> str:
    try:
        done = subprocess.run((QEMU, "--version"), capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return done.stdout.partition("\n")[0].replace(" ", "-").replace("/", "-")
