"""The state file: everything a run creates is written down before it exists, and undone in reverse order.

One file per run, JSON lines, in $BENCH_STATE, or /run/vip-bench (root), or $XDG_RUNTIME_DIR or /tmp for others. Its
name says whose it is, so that there is no moment at which nobody's file exists: `clean` touches only what is named in
the files of runs whose owner is dead.
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


def _owner(pid: int) -> str:
    """A process, by name: unlike any other's on this machine, before and after a reboot, too."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{pid}.{start_time(pid)}.{file.read().strip()}"


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
            handle = None
            while handle is None:
                os.makedirs(base, mode=0o700, exist_ok=True)
                self.run = "b" + os.urandom(3).hex()
                self._path = os.path.join(base, f"{self.run}.{_owner(os.getpid())}{_SUFFIX}")
                with suppress(FileExistsError, FileNotFoundError):  # not found: the last run to end took the directory
                    handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Prerequisite("cannot write the state file", where=base, why=error.strerror or "") from error
        self._file = os.fdopen(handle, "w", encoding="utf-8", buffering=1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def record(self, kind: str, name: str) -> None:
        """Write down that `name` is about to be created."""
        assert kind in _UNDO, kind
        interrupt.check()
        self._entries.append((kind, name))
        try:
            self._file.write(json.dumps([kind, name]) + "\n")
        except OSError as error:
            raise Prerequisite("cannot write the state file", where=self._path, why=error.strerror or "") from error

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
        with suppress(OSError):  # a line for which there was no room
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
    for entry in sorted(os.listdir(base)):
        _run, _, owner = entry.removesuffix(_SUFFIX).partition(".")
        pid = owner.partition(".")[0]
        if not entry.endswith(_SUFFIX) or not pid.isdecimal() or owner == _owner(int(pid)):
            continue
        path = os.path.join(base, entry)
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:  # its run has just ended
            continue
        yield path, [named for named in map(_parse, lines) if named]


def _parse(line: str) -> tuple[str, str] | None:
    try:
        kind, name = json.loads(line)
    except ValueError:  # the last line of a run killed while it wrote: what it names was not created yet
        return None
    return kind, name


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
