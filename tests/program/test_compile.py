"""The eBPF programs compile with the headers of every kernel for which figures are published, in either order."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest

from bench.kernels import Command, headers, packages, resolve
from bench.kernels.choice import PUBLISHED
from dataplanes.ebpf_object import PROGRAMS
from tests.conftest import ROOT


@pytest.mark.night
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_programs_compile_with_the_headers_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = packages.available()
    release = offered.get(name) or max(offered.values())  # another distribution has other kernels
    kernel = resolve("host" if os.geteuid() == 0 else "guest", "wall")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))  # otherwise any kernel's headers will do
    environ = {**os.environ, "BCC_KERNEL_SOURCE": str(headers(release))}
    told: list[bytes] = []
    argv = (sys.executable, "-m", "dataplanes.ebpf_object", *PROGRAMS)
    assert kernel.execute(Command(argv, environ, str(ROOT)), told.append) == 0
    made = {key for line in told for key in msgspec.json.decode(line)}
    assert made == set(PROGRAMS)
