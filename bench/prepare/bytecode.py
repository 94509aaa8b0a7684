"""Our own modules' bytecode, made outside: the guest cannot keep it, and would compile at every start."""

from __future__ import annotations

import compileall
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def compile_bytecode() -> None:
    """Compile what has changed. A tree that cannot be written to is compiled in the guest then, slowly."""
    for package in ("bench", "scenarios", "dataplanes"):
        compileall.compile_dir(str(_ROOT / package), quiet=2, optimize=0)
