"""Debian's suites that this machine's own apt does not know: a private folder of sources for them, in the cache.

A package of a suite is named as apt names it, PACKAGE/SUITE. CACHE/apt/SUITE/ has the machine's sources and the suite,
pinned below them: what is named comes from the suite, and what it depends on from the machine's own where that is new
enough. Nothing of the machine's apt is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.kernels import seal
from dataplanes import files
from dataplanes.errors import Prerequisite
from dataplanes.kernel.process import tied
from dataplanes.paths import cache

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_OWN = Path("/etc/apt")
_KNOWN = re.compile(r"\b[na]=([^,\s]+)")
_LISTS_LAST = 24 * 3600
"""Seconds after which the lists of packages are fetched again before a package is searched for."""


def split(package: str) -> tuple[str, str]:
    """Split PACKAGE/SUITE. The suite is "" if none is named."""
    name, _, suite = package.partition("/")
    return name, suite


def options(packages: Iterable[str]) -> list[str]:
    """Return the options with which apt knows the suites of these packages.

    Raises Prerequisite if a suite is not to be had here.
    """
    named = sorted({suite for _, suite in map(split, packages) if suite})
    lacking = [suite for suite in named if suite not in _own()] if named else []
    return _private(lacking) if lacking else []


def _own() -> set[str]:
    """Return the suites and code names that the machine's apt knows."""
    try:
        done = subprocess.run(("apt-cache", "policy"), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return set()
    return {name for line in done.stdout.splitlines() if "release " in line for name in _KNOWN.findall(line)}


def _private(suites: Sequence[str]) -> list[str]:
    """Make the folder of some suites, and fetch its lists of packages if they are old."""
    if not KEYRING.exists():
        why = f"{KEYRING}, by which apt verifies them, is missing"
        fix = "apt-get install debian-archive-keyring"
        raise Prerequisite(f"packages of {' and '.join(suites)} not to be had here", why=why, fix=fix)
    folder = cache() / "apt" / "_".join(suites)
    chosen = {
        "Dir::Etc::SourceList": os.devnull,
        "Dir::Etc::SourceParts": str(folder / "sources"),
        "Dir::Etc::Preferences": str(folder / "preferences"),
        "Dir::State::Lists": str(folder / "lists"),
        "Dir::Cache": str(folder / "cache"),
        "APT::Sandbox::User": "root",  # the user _apt need not be able to read this user's cache
    }
    found = [word for name, value in chosen.items() for word in ("-o", f"{name}={value}")]
    with seal.lock(folder):
        try:
            _write(folder, suites)
        except OSError as error:
            raise files.cannot_write(folder, error, "the sources of apt") from error
        _update(folder, suites, found)
    return found


def _write(folder: Path, suites: Sequence[str]) -> None:
    """Write what differs only: an apt of another run may be reading the folder."""
    sources = folder / "sources"
    for directory in (sources, folder / "lists" / "partial", folder / "cache" / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    known = (_OWN / "sources.list", *sorted((_OWN / "sources.list.d").glob("*.[ls]*")))
    own = {each.name: each for each in known if each.suffix in (".list", ".sources") and each.is_file()}
    for each in sources.iterdir():
        if each.is_symlink() and own.get(each.name) != each.readlink():
            each.unlink()
    for name, each in own.items():
        if not (sources / name).is_symlink():
            (sources / name).symlink_to(each)
    lines = [f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n" for suite in suites]
    files.keep(sources / "bench-suites.list", "".join(lines).encode())
    pins = [f"Package: *\nPin: release n={suite}\nPin-Priority: 100\n\n" for suite in suites]
    files.keep(folder / "preferences", "".join(pins).encode())


def _update(folder: Path, suites: Sequence[str], found: Sequence[str]) -> None:
    """Fetch the lists. One of the machine's own sources may be out of reach; the suites may not."""
    mark = folder / "fetched"
    if mark.exists() and time.time() - mark.stat().st_mtime < _LISTS_LAST:
        return
    done = subprocess.run(
        ("apt-get", "update", "-q", *found), capture_output=True, text=True, check=False, preexec_fn=tied()
    )
    if any(not list((folder / "lists").glob(f"*_dists_{suite}_*Packages*")) for suite in suites):
        errors = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
        why = errors[0][3:] if errors else f"apt-get update ended with {done.returncode}"
        fix = "connect this machine to the network once; what is unpacked stays in the cache"
        raise Prerequisite(f"packages of {' and '.join(suites)} not to be had here", why=why, fix=fix)
    mark.touch()
