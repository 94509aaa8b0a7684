"""Data planes and checks of other packages, which name them as entry points (docs/extending.md).

A package is imported when one of its planes or checks is used. Until then its metadata tell the names. The kernel under
test gets the entry points with its job and reads no metadata, which would take a second under emulation.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from msgspec import Struct

from dataplanes.errors import Prerequisite

PLANES, CHECKS, EXPECTED = "vip_bench.dataplanes", "vip_bench.checks", "vip_bench.expected"
"""The groups. An entry point is a plane's recipe, a module with checks, or a package that has an expected.toml."""
_PLANE = re.compile(r"[a-z0-9][a-z0-9.-]*")


class Extension(Struct, frozen=True):
    """An entry point of a package."""

    group: str
    name: str
    value: str  # MODULE or MODULE:ATTRIBUTE
    package: str  # its name and version

    def __str__(self) -> str:
        return f"{self.package} (entry point {self.name} = {self.value} in {self.group})"

    def refused(self, why: str) -> Prerequisite:
        """Return the error of a package that cannot be used."""
        fix = f"repair the package, or pip uninstall {self.package.partition(' ')[0]}"
        return Prerequisite("an installed package cannot be used", where=str(self), why=why, fix=fix)

    def load(self) -> object:
        """Import the module, and return it or its attribute. Raises Prerequisite, which names the package."""
        module, _, attribute = self.value.partition(":")
        try:
            found: object = importlib.import_module(module)
            for name in filter(None, attribute.split(".")):
                found = getattr(found, name)
        except (Exception, SystemExit) as error:  # a package's own code may raise anything
            raise self.refused(f"{type(error).__name__}: {error}") from error
        return found

    def directory(self) -> str:
        """Return the directory of the package that the entry point names. Raises Prerequisite if there is none."""
        try:
            found = importlib.util.find_spec(self.value)
        except (ImportError, ValueError) as error:
            raise self.refused(f"{type(error).__name__}: {error}") from error
        if found is None or not found.submodule_search_locations:
            raise self.refused(f"there is no package {self.value}")
        return found.submodule_search_locations[0]

    def files(self) -> list[Path]:
        """Return the source files of the package's module, or of all modules beside it in its package."""
        found = importlib.util.find_spec(self.value.partition(":")[0].partition(".")[0])
        if found is None or found.origin is None:
            return []
        top = Path(found.origin)
        return sorted(top.parent.rglob("*.py")) if found.submodule_search_locations else [top]


_told: list[Extension] | None = None


def adopt(extensions: Iterable[Extension]) -> None:
    """Use these entry points, which the user's Python has found, instead of searching for them again."""
    global _told
    _told = list(extensions)


@cache
def _installed() -> tuple[Extension, ...]:
    from importlib.metadata import entry_points  # costs 30 ms

    return tuple(
        Extension(group, each.name, each.value, f"{each.dist.name} {each.dist.version}" if each.dist else "a package")
        for group in (PLANES, CHECKS, EXPECTED)
        for each in sorted(entry_points(group=group), key=lambda found: found.name)
    )


def known() -> Sequence[Extension]:
    """Return the entry points of all installed packages. Nothing is imported."""
    return _installed() if _told is None else _told


def group(name: str) -> Iterator[Extension]:
    """Return the entry points of one group."""
    return (each for each in known() if each.group == name)


def planes(taken: Iterable[str]) -> dict[str, Extension]:
    """Return the planes of all packages by name. Raises Prerequisite for a name that is taken or not valid."""
    found: dict[str, Extension] = {}
    for each in group(PLANES):
        if not _PLANE.fullmatch(each.name):
            raise each.refused(f"{each.name!r} is no name of a data plane: lower-case letters, digits, - and .")
        if each.name in taken:
            raise each.refused(f"there is a data plane {each.name} already")
        if each.name in found:
            raise each.refused(f"{found[each.name].package} has a data plane {each.name}, too")
        found[each.name] = each
    return found
