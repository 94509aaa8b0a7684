"""The directory of files that the program can make again: kernels, packages, compiled programs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def cache() -> Path:
    """Return $BENCH_CACHE, or vip-bench in the user's cache directory."""
    given = os.environ.get("BENCH_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vip-bench"


def unpacked(packages: Iterable[str]) -> Path:
    """Return the directory in the cache that has these Debian packages, NAME or NAME/SUITE.

    Their names have no underscore and no @.
    """
    return cache() / "packages" / "_".join(sorted(packages)).replace("/", "@")
