"""The kernel modules of one release, and the order in which they are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from dataplanes.errors import Prerequisite


def _name(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


class Modules:
    """A directory of modules (/lib/modules/RELEASE) with its modules.dep."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def _dependencies(self) -> dict[str, tuple[str, list[str]]]:
        """Map each name to its path, and the paths that it needs, the nearest first."""
        found = {}
        for line in self._lines("modules.dep"):
            path, _, needs = line.partition(":")
            found[_name(path)] = path, needs.split()
        return found

    @cached_property
    def _builtin(self) -> set[str]:
        return {_name(line) for line in self._lines("modules.builtin")}

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.directory / name).read_text("utf-8").splitlines()
        except OSError:
            return []

    def has(self, name: str) -> bool:
        """Return True if the module can be loaded, or is built in."""
        return name.replace("-", "_") in self._dependencies or name.replace("-", "_") in self._builtin

    def order(self, names: Iterable[str]) -> list[Path]:
        """Return the files to load for these modules, dependencies first. A built-in module needs none.

        Raises Prerequisite for a module that this kernel does not have.
        """
        order: dict[str, None] = {}
        for name in (each.replace("-", "_") for each in names):
            if name in self._dependencies:
                path, needs = self._dependencies[name]
                order.update(dict.fromkeys((*reversed(needs), path)))
            elif name not in self._builtin:
                raise Prerequisite(f"no kernel module {name}", where=str(self.directory))
        return [self.directory / path for path in order]
