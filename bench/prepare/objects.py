"""eBPF objects, compiled on the kernel under test when they are not in the cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import msgspec

from bench.kernels import Command, Kernel, headers
from dataplanes import ebpf_object, files
from dataplanes.errors import BenchError
from dataplanes.kernel.process import tied
from dataplanes.requirements import Compiled, Requirement


def compile_missing(requirements: Iterable[Requirement], kernel: Kernel) -> None:
    """Compile the eBPF objects that are required and missing.

    Raises Prerequisite without headers, BenchError on an error.

    bcc must be root. In a guest every user is root, but there it takes forty seconds, and two seconds on the machine
    itself.
    """
    names = [need.name for need in requirements if isinstance(need, Compiled)]
    missing = _missing(names)
    if not missing:
        return
    print(f"bench: compiling {', '.join(missing)} for eBPF, once", file=sys.stderr)
    argv = (sys.executable, "-m", "dataplanes.ebpf_object", *missing)
    environ = {**os.environ, "BCC_KERNEL_SOURCE": str(headers(kernel.release))}
    if os.geteuid() == 0 and kernel.name != "host":
        environ_here = environ | {"BENCH_EVENTS_FD": "1"}
        done = subprocess.run(argv, env=environ_here, capture_output=True, check=False, preexec_fn=tied())
        for line in done.stdout.splitlines():
            _keep(line)
    if not _missing(names):
        return
    code = kernel.execute(Command(argv, environ, os.getcwd(), timeout=600), _keep)
    if code or _missing(names):
        raise BenchError("eBPF programs were not compiled", where=kernel.name, why=f"bcc ended with exit code {code}")


def _missing(names: Iterable[str]) -> list[str]:
    return [name for name in names if ebpf_object.kept(name) is None]


def _keep(line: bytes) -> None:
    for name, made in msgspec.json.decode(line, type=dict[str, ebpf_object.Object]).items():
        files.keep(ebpf_object.cached(name), msgspec.json.encode(made))
