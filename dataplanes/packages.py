"""The environment of a program whose Debian packages were unpacked into the cache (bench.prepare.unpacked)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataplanes.paths import unpacked

_PROGRAMS = ("usr/sbin", "usr/bin", "sbin", "bin")
_LIBRARIES = ("usr/lib", "lib")


def environment(packages: Sequence[str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which a program finds these packages' programs and libraries before the machine's."""
    if not packages:
        return {}
    root = unpacked(packages) / "root"
    libraries = [path for each in _LIBRARIES for path in (*sorted(root.glob(f"{each}/*-linux-gnu*")), root / each)]
    return {
        "PLANE_PACKAGES": str(root),
        "PATH": _joined([root / each for each in _PROGRAMS], env.get("PATH", os.defpath)),
        "LD_LIBRARY_PATH": _joined(libraries, env.get("LD_LIBRARY_PATH", "")),
    }


def _joined(first: Sequence[Path], then: str) -> str:
    """Return a search path. An empty part of one would mean the current directory."""
    return ":".join([*(str(path) for path in first if path.is_dir()), *filter(None, then.split(":"))])
