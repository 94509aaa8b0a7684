"""Seal an unpacked kernel in the cache, and find out whether it is still the one that apt verified.

A cache can be damaged by a crash, a full disk or another program. The sizes and times of its files are compared at
every use (10 ms). The hashes of their contents are compared once per boot of the machine (0.3 s), and when a time
differs, for example after the cache was copied.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from dataplanes import files
from dataplanes.errors import Prerequisite

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
        with path.open("rb") as file:
            os.fsync(file.fileno())
            state = os.fstat(file.fileno())
            sealed[str(path.relative_to(directory))] = _Sealed(state.st_size, state.st_mtime_ns, _hash(path))
    files.keep(directory / _SEAL, msgspec.json.encode(sealed))


def broken(directory: Path) -> str:
    """Return what is wrong with a sealed directory, or "" if nothing is."""
    sealed = files.kept(directory / _SEAL, dict[str, _Sealed])
    if not sealed:
        return "it has no seal"
    found = {str(path.relative_to(directory)): path.stat() for path in _files(directory)}
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
    for base, _, names in os.walk(directory):
        yield from (Path(base, name) for name in sorted(names) if not name.startswith("."))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
