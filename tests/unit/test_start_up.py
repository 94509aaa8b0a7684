"""What a python in a guest does not import: there each module costs some 20 ms."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("package", ["asyncio", "matplotlib", "pyroute2.ndb", "rich", "scipy", "ssl"])
def test_a_trial_does_without(package: str) -> None:
    assert python(f"import sys, bench.inside; print({package!r} in sys.modules)") == "False\n"


def test_all_of_pyroute2_is_there_when_asked_for() -> None:
    asked = "from pyroute2 import IPRoute, NDB; import pyroute2; print(IPRoute.__name__, NDB is pyroute2.NDB)"
    assert python(f"import dataplanes.kernel; {asked}") == "IPRoute True\n"
    assert python(f"{asked}; import dataplanes.kernel; print(pyroute2.IPRoute.__name__)").endswith("IPRoute\n")
