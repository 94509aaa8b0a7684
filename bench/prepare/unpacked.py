"""Debian packages that a plane's program needs, unpacked into the cache as kernels are, and never installed.

CACHE/packages/NAME_NAME/ holds root/, with the files of the packages and of those dependencies that the machine lacks,
and packages.json, which tells their versions and suites, under a seal. It stays as it is until it is removed there, so
figures stay comparable.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import msgspec

from bench.kernels import apt, seal, suites
from bench.kernels.apt import DebianPackage
from dataplanes import catalog, files
from dataplanes.errors import Prerequisite
from dataplanes.paths import unpacked
from dataplanes.requirements import Requirement, Unpacked
from dataplanes.selection import Selection

_TOLD = "packages.json"
_MB = 600
_C_LIBRARY = ("libc6", "libc6:amd64")
_NOT_NEEDED = ("doc", "info", "lintian", "locale", "man")


def obstacle(packages: Sequence[str]) -> tuple[str, str]:
    """Return why these packages are not to be had here, and what to do; "" and "" if nothing is in the way."""
    if seal.broken(unpacked(packages)):
        try:
            _offered(packages)
        except Prerequisite as error:
            return error.why or error.message, error.fix
    return "", ""


def fetch(requirements: Iterable[Requirement]) -> None:
    """Download and unpack the packages that are required and are not in the cache. Raises Prerequisite."""
    for need in requirements:
        if isinstance(need, Unpacked):
            packages = need.packages()
            seal.once(unpacked(packages), partial(_make, packages), "the packages", _MB)


def versions(selection: Selection) -> list[DebianPackage]:
    """Return the packages of a selected plane, with the versions and suites that are unpacked."""
    named = [need.packages() for need in catalog.requires(selection) if isinstance(need, Unpacked)]
    return [one for each in named for one in files.kept(unpacked(each) / _TOLD, list[DebianPackage]) or []]


def _offered(packages: Sequence[str]) -> list[DebianPackage]:
    """Return what is to be unpacked. Raises Prerequisite if it is not to be had, or cannot run here."""
    found = _resolved(tuple(packages))
    if isinstance(found, Prerequisite):
        raise found
    if any(each.name in _C_LIBRARY for each in found):
        why = "they need a newer C library than this machine has, and programs can have only one"
        raise Prerequisite(f"{' and '.join(packages)} not to be had here", why=why, fix="use a later release")
    return found


@cache
def _resolved(packages: tuple[str, ...]) -> list[DebianPackage] | Prerequisite:
    """Ask apt once. It takes seconds for an answer, and each kernel is asked for its requirements."""
    try:
        return apt.resolve(packages)
    except Prerequisite as error:
        return error


def _make(packages: Sequence[str], made: Path) -> None:
    """Make the directory of some packages."""
    found = _offered(packages)
    debs = made.with_name("debs")
    for each in (debs, made):
        each.mkdir()
    named = [f"{each.name}={each.version}" for each in found]
    apt.extract(apt.download(named, debs, suites.options(packages)), made / "root")
    for name in _NOT_NEEDED:
        shutil.rmtree(made / "root" / "usr" / "share" / name, ignore_errors=True)
    files.keep(made / _TOLD, msgspec.json.format(msgspec.json.encode(found)))
