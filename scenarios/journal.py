"""The state file: everything a run creates is written down before it exists, and undone in reverse order.

One file per run, JSON lines, in $BENCH_STATE, or /run/vip-bench (root), or $XDG_RUNTIME_DIR or /tmp for others. The
first line says whose it is: `clean` touches only what is named in the files of runs whose owner is dead.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel import interrupt, netns

_SUFFIX = ".jsonl"
_NEWBORN = 60.0
"""Seconds a state file without its first line may be one that is just being written."""


def directory() -> str:
    """Where state files are."""
    given = os.environ.get("BENCH_STATE")
    if given:
        return given
    if os.geteuid() == 0:
        return "/run/vip-bench"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/tmp"), f"vip-bench-{os.geteuid()}")


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot: with the pid it names one process for ever. "" if gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # a zombie is gone for our purposes


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _kill(name: str) -> None:
    pid, started = (*name.split("@"), "")[:2]
    if start_time(int(pid)) != started:
        return
    try:
        os.kill(int(pid), signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 10
    while start_time(int(pid)) == started and time.monotonic() < deadline:
        time.sleep(0.001)


def _remove_cgroup(path: str) -> None:
    with suppress(OSError), open(os.path.join(path, "cgroup.kill"), "w", encoding="ascii") as file:  # Linux 5.14
        file.write("1")
    deadline = time.monotonic() + 10
    while os.path.isdir(path):
        try:
            os.rmdir(path)
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError("cannot remove the cgroup", where=path, why=error.strerror or "") from error
            time.sleep(0.001)


def _remove_file(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _remove_directory(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _remove_empty(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path)


_UNDO: dict[str, Callable[[str], None]] = {
    "netns": netns.delete,
    "process": _kill,
    "cgroup": _remove_cgroup,
    "file": _remove_file,
    "directory": _remove_directory,  # with everything in it
    "empty-directory": _remove_empty,  # only if nobody else put anything there
}


class Journal:
    """The state file of one run. A context manager: leaving it undoes what is still recorded."""

    def __init__(self) -> None:
        """Open a new state file. Raises Prerequisite where none can be written."""
        self._entries: list[tuple[str, str]] = []
        base = directory()
        try:
            os.makedirs(base, mode=0o700, exist_ok=True)
            while True:
                self.run = "b" + os.urandom(3).hex()
                self._path = os.path.join(base, self.run + _SUFFIX)
                try:
                    handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            raise Prerequisite("cannot write the state file", where=base, why=error.strerror or "") from error
        self._file = os.fdopen(handle, "w", encoding="utf-8", buffering=1)
        owner = {"pid": os.getpid(), "start": start_time(os.getpid()), "boot": _boot()}
        self._file.write(json.dumps(owner) + "\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def record(self, kind: str, name: str) -> None:
        """Write down that `name` is about to be created."""
        assert kind in _UNDO, kind
        interrupt.check()
        self._entries.append((kind, name))
        self._file.write(json.dumps([kind, name]) + "\n")

    def discharge(self, kind: str, name: str) -> None:
        """Undo one entry now, ahead of the rest."""
        if (kind, name) in self._entries:
            _UNDO[kind](name)
            self._entries.remove((kind, name))

    def scratch(self, name: str) -> str:
        """A path in a directory of this run's own, which goes with it."""
        path = os.path.join(directory(), self.run)
        if ("directory", path) not in self._entries:
            self.record("directory", path)
            os.makedirs(path, mode=0o700, exist_ok=True)
        return os.path.join(path, name)

    def undo(self) -> None:
        """Undo everything, last first. A step that fails is told at the end; the file then stays for `clean`."""
        failures = _undo_all(self._entries)
        self._entries.clear()
        self._file.close()
        if failures:
            raise failures[0]
        _remove_file(self._path)
        _remove_empty(directory())


def _undo_all(entries: list[tuple[str, str]]) -> list[BenchError]:
    failures = []
    for kind, name in reversed(entries):
        try:
            _UNDO[kind](name)
        except BenchError as error:
            failures.append(error)
    return failures


def _dead() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """State files of runs whose owner is gone, with what they name."""
    base = directory()
    if not os.path.isdir(base):
        return
    boot = _boot()
    for entry in sorted(os.listdir(base)):
        if not entry.endswith(_SUFFIX):
            continue
        path = os.path.join(base, entry)
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:  # its run has just ended
            continue
        parsed = [line for line in map(_parse, lines) if line is not None]
        owner = parsed[0] if parsed and isinstance(parsed[0], dict) else None
        if owner is None:
            alive = time.time() - os.stat(path).st_mtime < _NEWBORN
        else:
            alive = owner["boot"] == boot and start_time(int(owner["pid"])) == owner["start"]
        if not alive:
            yield path, [(line[0], line[1]) for line in parsed if isinstance(line, list)]


def _parse(line: str) -> dict[str, str] | list[str] | None:
    try:
        parsed: dict[str, str] | list[str] = json.loads(line)
    except ValueError:  # the last line of a run killed while it wrote: what it names was not created yet
        return None
    return parsed


def clean() -> list[str]:
    """Undo what dead runs left. Returns one line per thing that was still recorded. Raises the first failure."""
    report = []
    failures: list[BenchError] = []
    for path, entries in _dead():
        failed = _undo_all(entries)
        failures += failed
        report += [f"removed {kind} {name}" for kind, name in entries]
        if not failed:
            _remove_file(path)
    _remove_empty(directory())
    if failures:
        raise failures[0]
    return report
