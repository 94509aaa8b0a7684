"""The containers' cgroups (v2) below one of the run. They are created only for planes that attach programs to them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scenarios.journal import Journal

_ROOT = "/sys/fs/cgroup"
_ENTER = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


def make(journal: Journal, name: str) -> str:
    """Create the cgroup of a container and return its path."""
    parent = f"{_ROOT}/vip-bench-{journal.run}"
    for path in (parent, f"{parent}/{name}"):
        if not os.path.isdir(path):
            journal.record("cgroup", path)
            os.mkdir(path)
    return f"{parent}/{name}"


def of(process: int | str) -> str:
    """Return the path of a process's cgroup. Raises OSError if there is no such process."""
    with open(f"/proc/{process}/cgroup", encoding="ascii") as file:
        return _ROOT + next(line.rstrip()[3:] for line in file if line.startswith("0::"))


def enter_argv(path: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Return the command that enters the cgroup and becomes `argv`."""
    return ("/bin/sh", "-c", _ENTER, path, *argv)


@contextmanager
def within(path: str | None) -> Iterator[None]:
    """Move this process into the cgroup for the block. None changes nothing."""
    if path is None:
        yield
        return
    home = of("self")
    _move_to(path)
    try:
        yield
    finally:
        _move_to(home)


def _move_to(path: str) -> None:
    with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
        file.write("0")
