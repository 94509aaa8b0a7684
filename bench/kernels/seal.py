"""Directories of the cache that hold what apt verified: each is made once, and sealed.

The seal tells whether a kernel, or a plane's packages, are still as they were unpacked. A cache can be damaged by a
crash, a full disk or another program. The sizes and times of its files are compared at every use (10 ms). The hashes of
their contents are compared once per boot of the machine (0.3 s), and when a time differs, for example after the cache
was copied.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from dataplanes import files
from dataplanes.errors import Prerequisite
from scenarios.journal import Journal

KERNEL_MB = 900
"""The room, in megabytes, that unpacking a kernel takes."""
_SEAL, _VERIFIED = ".seal.json", ".verified"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Sealed(Struct, frozen=True, array_like=True):
    size: int
    mtime_ns: int
    sha256: str


def write(directory: Path) -> None:
    """Record the sizes and hashes of a directory's files. Raises Prerequisite if the disk is full."""
    sealed = {}
    for path in _files(directory):
        if not path.is_symlink():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        state = path.lstat()
        sealed[str(path.relative_to(directory))] = _Sealed(state.st_size, state.st_mtime_ns, _hash(path))
    files.keep(directory / _SEAL, msgspec.json.encode(sealed))


def broken(directory: Path) -> str:
    """Return what is wrong with a sealed directory, or "" if nothing is."""
    sealed = files.kept(directory / _SEAL, dict[str, _Sealed])
    if not sealed:
        return "it has no seal"
    found = {str(path.relative_to(directory)): path.lstat() for path in _files(directory)}
    for name in sealed.keys() ^ found.keys():
        return f"{name} is missing" if name in sealed else f"{name} was put there"
    for name, state in found.items():
        if state.st_size != sealed[name].size:
            return f"{name} has {state.st_size:,} bytes, not {sealed[name].size:,}"
    mark = f"{_BOOT.read_text('ascii').strip()} {hashlib.sha256(msgspec.json.encode(sealed)).hexdigest()}".encode()
    same = all(state.st_mtime_ns == sealed[name].mtime_ns for name, state in found.items())
    if same and _verified(directory) == mark:
        return ""
    for name, known in sealed.items():
        if _hash(directory / name) != known.sha256:
            return f"{name} has another content than what was unpacked"
    with suppress(Prerequisite):  # a cache that is only readable is checked every time
        files.keep(directory / _VERIFIED, mark)
    return ""


def _verified(directory: Path) -> bytes:
    try:
        return (directory / _VERIFIED).read_bytes()
    except OSError:
        return b""


def _files(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory, and the links, which may lead nowhere."""
    for base, directories, names in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(base, name))]
        yield from (Path(base, name) for name in sorted((*names, *links)) if not name.startswith("."))


def _hash(path: Path) -> str:
    """Return the hash of a file's content, or of the path that a link leads to."""
    return hashlib.sha256(os.readlink(path).encode() if path.is_symlink() else path.read_bytes()).hexdigest()


# -- making ------------------------------------------------------------------------------------------------------------


def once(target: Path, make: Callable[[Path], object], what: str = "the kernel", megabytes: int = KERNEL_MB) -> Path:
    """Let `make` make a directory. One process does so at a time, and the result appears complete and sealed."""
    if not broken(target):
        return target
    with lock(target.parent):
        if broken(target):  # no other process was quicker
            demand_room(target.parent, what, megabytes)
            try:
                with work(target) as temporary:
                    made = temporary / "made"
                    make(made)
                    write(made)
                    if target.exists():
                        target.rename(temporary / "old")
                    made.rename(target)
            except OSError as error:
                raise files.cannot_write(target, error, what) from error
    return target


def demand_room(path: Path, what: str = "the kernel", megabytes: int = KERNEL_MB) -> None:
    """Raise Prerequisite if the disk has no room for what is to be unpacked."""
    free = shutil.disk_usage(path).free // 1_000_000
    if free < megabytes:
        raise Prerequisite(
            f"no room for {what}",
            where=str(path),
            why=f"{free} MB free, unpacking takes {megabytes} MB",
            fix="free some space, or set BENCH_CACHE",
        )


@contextmanager
def work(target: Path) -> Iterator[Path]:
    """Yield a temporary directory beside the one that is to be made."""
    with Journal() as journal:
        temporary = Path(journal.partial(target))
        temporary.mkdir()
        yield temporary


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process unpack at a time. The directory itself is the lock."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Prerequisite("cannot write to the cache", where=str(path), why=error.strerror or "") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
