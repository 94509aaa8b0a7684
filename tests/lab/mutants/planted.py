"""A fault in the source of a plane, for the process that plants it before it imports the plane.

python -m tests.lab.mutants.planted      compiles every program with a fault that is not compiled yet

A guest has no compiler that would be fast enough.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

import msgspec
import pytest

from tests.conftest import ROOT
from tests.lab.mutants.table import SOURCES, Mutant, load

OBJECTS = ROOT / ".tox" / "mutants"
"""Where programs with faults are kept. The name of each has the hash of its source."""


def plant(mutant: Mutant) -> None:
    """Have the plane's source be that of the mutant for the rest of this process."""
    path, text = SOURCES / mutant.file, mutant.changed()
    if path.suffix == ".py":
        module = ".".join(("dataplanes", *Path(mutant.file).with_suffix("").parts))
        if module in sys.modules:
            raise RuntimeError(f"{module} is imported already, without the fault")
        sys.meta_path.insert(0, _Finder(module, path, text))
    else:
        _plant_in_programs(path, text)
        compile_program(mutant.plane.removeprefix("ebpf-"))


class _Finder(importlib.abc.MetaPathFinder):
    """It finds one module, and loads it from another text than its file has."""

    def __init__(self, name: str, path: Path, text: str) -> None:
        self._name, self._path, self._text = name, str(path), text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path)
        loader.text = self._text
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    text = ""

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec")


def _plant_in_programs(path: Path, text: str) -> None:
    from dataplanes import ebpf_object

    changed = Path(tempfile.mkdtemp(prefix="mutant-"))
    atexit.register(shutil.rmtree, changed)
    shutil.copytree(path.parent, changed, dirs_exist_ok=True)
    (changed / path.name).write_text(text, "utf-8")
    ebpf_object._SOURCES = changed
    pytest.MonkeyPatch().setattr(ebpf_object, "cache", lambda: OBJECTS)


def compile_program(name: str) -> None:
    """Compile a program unless that was done before. bcc takes two seconds on a machine, and forty in a guest."""
    from bench.kernels import headers
    from dataplanes import ebpf_object, files

    if ebpf_object.kept(name) is None:
        os.environ["BCC_KERNEL_SOURCE"] = str(headers(os.uname().release))
        ebpf_object.cached(name).parent.mkdir(parents=True, exist_ok=True)
        files.keep(ebpf_object.cached(name), msgspec.json.encode(ebpf_object.compile_object(name)))


def main() -> None:
    """Plant every fault of a program, each in a process of its own."""
    if os.geteuid():
        print("bcc must be root, so the guests compile the programs", file=sys.stderr)
        return
    programs = [each for mutants in load().values() for each in mutants if not each.file.endswith(".py")]
    with multiprocessing.get_context("spawn").Pool(maxtasksperchild=1) as pool:
        pool.map(plant, programs, chunksize=1)


if __name__ == "__main__":
    main()
