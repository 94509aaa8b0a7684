"""What is not imported: in a guest each module costs some 20 ms."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.unit.test_layers import MODULES


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_a_trial_does_without_what_is_large() -> None:
    imported = python("import sys, bench.inside.main; print(*sys.modules)").split()
    assert "dataplanes.kernel.rtnl" in imported
    assert "dataplanes.program" not in imported
    assert not {"asyncio", "hashlib", "pyroute2.netlink", "rich", "scipy", "ssl"}.intersection(imported)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="msgspec needs typing_extensions for Python 3.10")
def test_a_trial_does_without_what_msgspec_would_import_if_it_could() -> None:
    imported = python("import sys, bench.inside.main; print(*sys.modules)").split()
    assert "msgspec" in imported
    assert not {"ast", "inspect", "typing_extensions"}.intersection(imported)


def test_what_was_left_out_can_be_imported_later() -> None:
    assert python("import bench.inside.main, typing_extensions; print(typing_extensions.Self)").endswith("Self\n")


def test_dask_is_imported_for_a_cluster_only() -> None:
    program = "import sys, bench.cli.main, bench.outside.run, bench.outside.matrix, bench.outside.cluster"
    assert "distributed" not in python(f"{program}; print(*sys.modules)").split()


def test_all_of_pyroute2_is_there_when_asked_for() -> None:
    asked = "from pyroute2 import IPRoute, NDB; import pyroute2; print(IPRoute.__name__, NDB is pyroute2.NDB)"
    assert python(f"import dataplanes.kernel; {asked}") == "IPRoute True\n"
    assert python(f"{asked}; import dataplanes.kernel; print(pyroute2.IPRoute.__name__)").endswith("IPRoute\n")


def test_what_pyroute2_does_not_have_is_told_as_usual() -> None:
    program = "import dataplanes.kernel, pyroute2; print(hasattr(pyroute2, 'NoSuchThing'), bool(pyroute2.__version__))"
    assert python(program) == "False True\n"


def test_no_module_replaces_a_method_or_a_module_of_another() -> None:
    """It would have to be found by its effect. One place does: the package that is imported lazily."""
    signs = ("method-assign", "setattr(", "sys.modules[", "__dict__[", "__class__ =")
    found = {str(path) for path in MODULES if any(sign in (ROOT / path).read_text() for sign in signs)}
    assert found - {"bench/kernels/session.py"} == {"dataplanes/kernel/lazy.py"}  # termios.tcsetattr()
