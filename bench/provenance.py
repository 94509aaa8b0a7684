"""Where a document comes from: the program as it was then, and the kernel under test as seen from outside."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

from bench import __version__
from bench.kernels import Kernel

_ROOT = Path(__file__).parents[1]
_PROGRAM = ("bench", "dataplanes", "scenarios", "run", "pyproject.toml")
"""What of a checkout can change a figure: publishing writes results, docs and README itself."""

_BUILD = (
    *("HZ", "PREEMPT", "PREEMPT_DYNAMIC", "PREEMPT_RT", "PREEMPT_VOLUNTARY", "RETPOLINE", "MITIGATION_RETPOLINE"),
    *("BPF_JIT_ALWAYS_ON", "BRIDGE_NETFILTER", "IP_VS", "IP_VS_TAB_BITS", "NF_CONNTRACK", "NF_TABLES"),
    *("DEBUG_LOCKDEP", "KASAN"),
)
"""What of a kernel's build a packet pays for."""


def tool() -> dict[str, str]:
    """Its name, its version and Python's; of a checkout the commit too, with a "+" if the program has changed since."""
    told = {"name": "bench", "version": __version__, "python": platform.python_version()}
    git = ("git", "-C", str(_ROOT))
    # Installed, it may lie in somebody else's repository.
    revision = _said(*git, "rev-parse", "--short=12", "HEAD") if (_ROOT / ".git").exists() else ""
    if not revision:
        return told
    changed = _said(*git, "status", "--porcelain", "--", *_PROGRAM)
    return told | {"revision": revision + "+" if changed else revision}


def kernel(under_test: Kernel, reason: str) -> dict[str, Any]:
    """What `environment` cannot know inside: which kernel was chosen and why, how it was built, what it ran in."""
    config = under_test.config() or {}
    return {
        "kernel_name": under_test.name,
        "kernel_reason": reason,
        "accelerated": under_test.accelerated,
        "config": {name: config[f"CONFIG_{name}"] for name in _BUILD if f"CONFIG_{name}" in config},
        "emulator": _said(under_test.emulator, "--version") if under_test.emulator else "",
    }


def _said(*argv: str) -> str:
    """The first line a command prints; nothing if it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.partition("\n")[0]
