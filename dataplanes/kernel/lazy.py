"""Packages that are imported without a part of what they would import."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose `__init__.py` has not run yet. It runs when somebody asks for a name that is not a module's.

    The import system finds the package's modules by its `__path__`, and its `__init__.py` need not run for that.
    """

    _complete = False

    def __getattr__(self, name: str) -> Any:
        if find_spec(f"{self.__name__}.{name}"):  # `from PACKAGE import MODULE` asks here before it imports the module
            return import_module(f"{self.__name__}.{name}")
        if self._complete:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self._complete = True
        assert self.__spec__
        assert self.__spec__.loader
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def import_without(package: str, optional: str) -> None:
    """Import a package as if one that it does not need were not installed. If either is imported, nothing is done."""
    if package in sys.modules or optional in sys.modules:
        return
    sys.modules[optional] = None  # type: ignore[assignment]  # its import raises ImportError
    try:
        import_module(package)
    finally:
        del sys.modules[optional]


def import_lazily(package: str) -> None:
    """Let `import PACKAGE.MODULE` import only that module. Nothing is done if the package is imported already."""
    spec = find_spec(package)
    if package in sys.modules or spec is None:
        return
    made = LazyPackage(package)
    made.__dict__.update(module_from_spec(spec).__dict__)
    sys.modules[package] = made
