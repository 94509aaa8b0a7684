"""The origin of a document: the program as it was then, and facts about the kernel under test."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from bench import __version__, load
from bench.inside import environment
from bench.kernels import Kernel
from bench.prepare import unpacked
from dataplanes import catalog, ebpf_object, extensions, plane_file, platforms
from dataplanes.kernel.procfs import field
from dataplanes.requirements import Compiled, described
from dataplanes.selection import Selection
from dataplanes.texts import clean
from scenarios.checks import Check

_ROOT = Path(__file__).parents[2]
_PROGRAM = ("bench", "dataplanes", "scenarios", "run", "pyproject.toml")
"""The parts of a checkout that can change a figure. Publishing writes results, docs and README itself."""

_BUILD = (
    *("HZ", "PREEMPT", "PREEMPT_DYNAMIC", "PREEMPT_RT", "PREEMPT_VOLUNTARY", "RETPOLINE", "MITIGATION_RETPOLINE"),
    *("BPF_JIT_ALWAYS_ON", "BRIDGE_NETFILTER", "IP_VS", "IP_VS_TAB_BITS", "NF_CONNTRACK", "NF_TABLES"),
    *("DEBUG_LOCKDEP", "KASAN"),
)
"""The options of a kernel's build that affect the cost of a packet."""
WRITTEN = ("--output", "--junit", "--benchmark-json", "--svg")
"""The options that name a file to write. -o is short for the first one."""


def tool() -> dict[str, str]:
    """Return the program's name and version, Python's version, and today's date in UTC.

    A checkout adds the commit, with a "+" if it has changed.
    """
    today = datetime.now(timezone.utc).date().isoformat()
    told = {"name": "bench", "version": __version__, "python": platform.python_version(), "date": today}
    git = ("git", "-C", str(_ROOT))
    # An installed program may lie in another project's repository.
    revision = _said(*git, "rev-parse", "--short=12", "HEAD") if (_ROOT / ".git").exists() else ""
    if not revision:
        return told
    changed = _said(*git, "status", "--porcelain", "--", *_PROGRAM)
    return told | {"revision": revision + "+" if changed else revision}


def identity(under_test: Kernel, selections: Sequence[Selection]) -> dict[str, str]:
    """Return what two trials of one run must have in common, wherever their guests ran.

    It is the program with its changed files, everything that was compiled from it, the kernel, and the tools that are
    used. All of it must have been prepared (bench.outside.dispatch). It does not depend on where files are.
    """
    packages = {each.package for each in selections}
    others = {
        package: {path for each in extensions.known() if each.package == package for path in each.files()}
        for package in packages
        if package
    }
    objects = {need.name for each in selections for need in catalog.requires(each) if isinstance(need, Compiled)}
    compiled = {f"{name}.bpf": ebpf_object.cached(name) for name in sorted(objects)}
    tools = environment.versions()
    del tools["ipvsadm"]  # it does not tell on a kernel without IPVS, and no plane is programmed with it
    return {
        "python": platform.python_version(),
        "sources": _sources(),
        **{package: _digest((path.name, path) for path in sorted(paths)) for package, paths in others.items()},
        **{each.name: plane_file.digest(each.program) for each in selections if each.program},
        **{f"{each.name}: packages": _packages(each) for each in selections if unpacked.versions(each)},
        "kernel": under_test.fingerprint(),
        **{name: _digest([(name, path)]) for name, path in {"vipload": load.binary(), **compiled}.items()},
        **tools,
        "emulator": _said(under_test.emulator, "--version") if under_test.emulator else "",
    }


def machine() -> dict[str, Any]:
    """Return the facts of this machine that tell it from others of a cluster."""
    return {
        "host": platform.node(),
        "kernel": platform.release(),
        "cpu": field("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory_kb": field("/proc/meminfo", "MemTotal"),
    }


def merged(before: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of one more guest of a run, and the machines of all its guests where they are told."""
    machines = [*before.get("machines", ())]
    machines += [each for each in facts.get("machines", ()) if each not in machines]
    return facts | ({"machines": machines} if machines else {})


def _sources() -> str:
    directories = [_ROOT / name for name in _PROGRAM if (_ROOT / name).is_dir()]
    files = [path for each in directories for path in each.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return _digest((str(path.relative_to(_ROOT)), path) for path in sorted(files))


def _digest(paths: Iterable[tuple[str, Path]]) -> str:
    """Return a hash of files by their names, which do not say where they lie."""
    made = hashlib.sha256()
    for name, path in paths:
        content = path.read_bytes()
        made.update(f"{name} {len(content)}\n".encode() + content)
    return made.hexdigest()[:12]


def planes(selections: Iterable[Selection]) -> list[dict[str, Any]]:
    """Return the planes as a document tells them: their knobs, their mechanisms, and what they need."""
    return [
        msgspec.to_builtins(replace(each, program=None))
        | {"mechanism": catalog.mechanism(each), "needs": list(map(described, catalog.requires(each)))}
        | {"program": _program(each)}
        for each in selections
    ]


def checks(wanted: Iterable[Check]) -> list[dict[str, str]]:
    """Return the checks as a document tells them."""
    return [
        {"name": c.name, "theme": c.theme, "statement": c.statement, "source": c.source, "package": c.package}
        for c in wanted
    ]


def _program(selection: Selection) -> dict[str, Any] | None:
    """Return what a document tells of a plane file's program, or of a platform: not where it lies, but what it is."""
    packages = msgspec.to_builtins(unpacked.versions(selection))
    if whole := platforms.of(selection):
        return {"summary": whole.summary, "imitates": whole.imitates, "packages": packages}
    if selection.program is None:
        return None
    told = msgspec.to_builtins(selection.program)
    named = ("digest", "summary", "ports", "protocols", "scheduler", "serve", "imitates")
    return {name: told[name] for name in named} | {"packages": packages}


def _packages(selection: Selection) -> str:
    return ", ".join(f"{each.name} {each.version}" for each in unpacked.versions(selection))


def command() -> str:
    """Return the command line that makes the document, without the files to write: they are of its user's machine."""
    words, told = iter(sys.argv[1:]), ["bench"]
    for word in words:
        if word == "--":
            told += [word, *words]  # somebody else's command
        elif word in ("-o", *WRITTEN):
            next(words, "")
        elif not word.startswith(("-o", *(f"{each}=" for each in WRITTEN))):
            told.append(word)
    return clean(shlex.join(told))


def kernel(under_test: Kernel, reason: str) -> dict[str, Any]:
    """Return the facts that the kernel under test cannot know: its name, why it was chosen, its build, its emulator."""
    config = under_test.config() or {}
    return {
        "kernel_name": under_test.name,
        "kernel_reason": reason,
        "accelerated": under_test.accelerated,
        "config": {name: config[f"CONFIG_{name}"] for name in _BUILD if f"CONFIG_{name}" in config},
        "emulator": _said(under_test.emulator, "--version") if under_test.emulator else "",
    }


def _said(*argv: str) -> str:
    """Return the first line that a command prints; "" if it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.partition("\n")[0]
