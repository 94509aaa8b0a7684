"""The user's own kernel: VMLINUZ, VMLINUZ:MODULES, or its Debian packages, PACKAGE.deb[:PACKAGE.deb].

Its files are used in place where a guest can use them. A package is unpacked into the cache, and is never installed.
Modules that are compressed, or that have no modules.dep, are copied into the cache and indexed there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from bench.kernels import apt, packages, seal
from bench.kernels.modules import Modules
from bench.kernels.vmlinux import bootable
from dataplanes.errors import Prerequisite, Usage
from dataplanes.paths import cache
from dataplanes.texts import demand_utf8

_FORMS = "VMLINUZ, VMLINUZ:MODULES or PACKAGE.deb[:PACKAGE.deb]"


def find(text: str) -> tuple[Path, Modules, Path]:
    """Return the image to boot, the modules and the configuration. Raises Usage."""
    demand_utf8(text, "the kernel's path")
    parts = [Path(os.path.realpath(part)) for part in text.split(":")]  # Path.resolve raises on a loop of links
    if all(part.suffix == ".deb" for part in parts):
        return _from_packages(text, parts)
    if len(parts) > 2 or any(part.suffix == ".deb" for part in parts):
        raise Usage("cannot read the kernel's path", where=text, fix=_FORMS)
    image = parts[0]
    release = _release(image)
    directory = _modules(text, release, image, parts[1:])
    return image, Modules(_usable(directory)), image.parent / f"config-{release}"


def _from_packages(text: str, debs: list[Path]) -> tuple[Path, Modules, Path]:
    for deb in debs:
        if not deb.is_file():
            raise Usage("no such package", where=str(deb))
    made = hashlib.sha256(b"".join(hashlib.sha256(deb.read_bytes()).digest() for deb in debs)).hexdigest()[:12]

    def unpack(target: Path) -> None:
        whole = target.with_name("whole")
        try:
            apt.extract(debs, whole)
        except Prerequisite as error:
            raise Usage(error.message, where=text, why=error.why) from error
        images = sorted(whole.glob("boot/vmlinuz-*"))
        if len(images) != 1:
            fix = "the package is called linux-image-RELEASE; linux-image-amd64 only depends on it"
            raise Usage("no kernel in the package", where=text, fix=fix)
        release = images[0].name.removeprefix("vmlinuz-")
        _release(images[0])  # an image of another architecture raises Usage
        directories = [*whole.glob(f"lib/modules/{release}/kernel"), *whole.glob(f"usr/lib/modules/{release}/kernel")]
        if not directories:
            fix = f"give the package that has them, too: {debs[0].name}:linux-modules-{release}...deb"
            raise Usage(f"no modules of {release}", where=text, why="they are in another package", fix=fix)
        packages.assemble(release, whole, directories[0].parent, target)

    directory = seal.once(cache() / "own" / made, unpack)
    return (
        bootable(directory),
        Modules(directory / "lib" / "modules" / str(packages.release(directory))),
        (directory / "config"),
    )


def _modules(text: str, release: str, image: Path, given: list[Path]) -> Path:
    """Find the kernel's modules directory, which is called after its release. Raises Usage."""
    bases = given or [image.parent / "lib" / "modules", image.parent.parent / "lib" / "modules"]
    for base in bases:
        for directory in (base, base / release):
            if directory.name == release and ((directory / "modules.dep").exists() or _files(directory)):
                return directory.resolve()
    looked = ", ".join(str(base) for base in bases)
    why = f"looked in {looked}, for {release}/modules.dep or {release}/kernel/"
    raise Usage(f"no modules of {release}", where=text, why=why, fix="name them as VMLINUZ:DIRECTORY")


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "kernel").rglob("*.ko*") if path.is_file())


def _usable(directory: Path) -> Path:
    """Return the directory if a guest can load its modules, or else a copy in the cache, made anew when they change."""
    files = _files(directory)
    if (directory / "modules.dep").exists() and all(path.suffix == ".ko" for path in files):
        return directory
    states = [(str(path.relative_to(directory)), path.stat()) for path in files]
    told = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)
    made = hashlib.sha256(f"{directory}\n{told}".encode()).hexdigest()[:12]
    target = seal.once(cache() / "own" / made, lambda target: packages.assemble_modules(directory, target, _copy))
    return target / "lib" / "modules" / directory.name


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _release(image: Path) -> str:
    """Return the release in a bzImage's header.

    It is described in Documentation/arch/x86/boot.rst: kernel_version is at 0x20E, from 0x200.
    """
    try:
        with image.open("rb") as file:
            head = file.read(0x8000)
    except OSError as error:
        raise Usage("cannot read the kernel", where=str(image), why=error.strerror or "") from error
    if head[0x202:0x206] != b"HdrS":
        raise Usage("not a Linux kernel image", where=str(image), fix="a bzImage, such as /boot/vmlinuz-*")
    start = int.from_bytes(head[0x20E:0x210], "little") + 0x200
    return head[start:].split(b"\0")[0].decode("ascii", "replace").split(" ")[0]
