"""Our own modules' bytecode. The program's own process compiles it, because a guest could not keep it."""

from __future__ import annotations

import compileall
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def compile_bytecode() -> None:
    """Compile changed modules. If the tree is not writable, the guest compiles them, which is slow."""
    for package in ("bench", "scenarios", "dataplanes"):
        compileall.compile_dir(str(_ROOT / package), quiet=2, optimize=0)
