"""eBPF objects, compiled on the kernel under test when they are not in the cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import msgspec

from bench.kernels import Command, Kernel, headers
from dataplanes import ebpf_object
from dataplanes.errors import BenchError
from dataplanes.requirements import Compiled, Requirement


def prepare(requirements: Iterable[Requirement], kernel: Kernel) -> None:
    """Compile what they name and is missing. Raises Prerequisite without headers, BenchError on a compiler's error.

    bcc must be root, which in a guest anybody is; there it takes half a minute, once.
    """
    names = [need.name for need in requirements if isinstance(need, Compiled)]
    missing = [name for name in names if not ebpf_object.cached(name).exists()]
    if not missing:
        return
    print(f"bench: compiling {', '.join(missing)} for eBPF, once", file=sys.stderr)

    def keep(line: bytes) -> None:
        for name, made in msgspec.json.decode(line, type=dict[str, ebpf_object.Object]).items():
            path = ebpf_object.cached(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(msgspec.json.encode(made))
            partial.rename(path)

    argv = (sys.executable, "-m", "dataplanes.ebpf_object", *missing)
    environ = {**os.environ, "BCC_KERNEL_SOURCE": str(headers(kernel.release))}
    code = kernel.execute(Command(argv, environ, os.getcwd(), timeout=600), keep)
    if code or any(not ebpf_object.cached(name).exists() for name in missing):
        raise BenchError("eBPF programs were not compiled", where=kernel.name, why=f"bcc ended with exit code {code}")
