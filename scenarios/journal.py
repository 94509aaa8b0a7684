"""The state file. Everything that a run creates is recorded before it exists, and undone in reverse order.

There is one file per run, of JSON lines. It is in $BENCH_STATE, or in /run/vip-bench for root, or in $XDG_RUNTIME_DIR
or /tmp for others. Its owner holds a lock on it (flock(2)) as long as it lives, and the kernel releases the lock
however the owner dies. So `clean` touches only the remains of dead runs. A lock works in every PID namespace, and a
process number does not. A second `clean` finds the file locked by the first.

The name of everything in the file holds the run's own name and has the shape that this program gives it. Nothing else
is removed, whatever the file says.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel import interrupt, netns, process

_FILE = re.compile(r"(b[0-9a-f]{6})\.jsonl")
_PATIENCE = 10.0
"""Seconds that the kernel may take to release what was killed."""


def directory() -> str:
    """Return the directory of the state files."""
    given = os.environ.get("BENCH_STATE")
    if given:
        return os.path.abspath(given)
    if os.geteuid() == 0:
        return "/run/vip-bench"
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/tmp", f"vip-bench-{os.geteuid()}")


def _demand_ours(base: str) -> None:
    """Raise Prerequisite if somebody else can write there. Such a user could decide what we remove and whom we kill."""
    found = os.lstat(base)
    if not stat.S_ISDIR(found.st_mode):
        why = "it is not a directory"
    elif found.st_uid != os.geteuid():
        why = "it belongs to another user"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = "others can write to it"
    else:
        return
    fix = "remove it, or name another directory in BENCH_STATE"
    raise Prerequisite("cannot keep state files in this directory", where=base, why=why, fix=fix)


# -- the kinds of entries: how each is undone, and what its name looks like
# ---------------------------------------------


def _remove_cgroup(path: str) -> None:
    with suppress(OSError), open(os.path.join(path, "cgroup.kill"), "w", encoding="ascii") as file:  # Linux 5.14
        file.write("1")
    deadline = time.monotonic() + _PATIENCE
    while os.path.isdir(path):
        try:
            os.rmdir(path)
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError("cannot remove the cgroup", where=path, why=error.strerror or "") from error
            time.sleep(0.001)


def _remove_path(path: str) -> None:
    """Remove a file, or a directory with its content.

    A process that was just killed may have written another file meanwhile.
    """
    deadline = time.monotonic() + _PATIENCE
    while os.path.lexists(path):
        try:
            shutil.rmtree(path) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError("cannot remove the path", where=path, why=error.strerror or "") from error
            time.sleep(0.001)


def _remove_empty(path: str) -> None:
    with suppress(OSError):
        os.rmdir(path)


def _is_anothers(directory: str) -> bool:
    """Return True for a directory that was not created by a run: those have the sticky bit, which does nothing here."""
    try:
        return not os.lstat(directory).st_mode & stat.S_ISVTX
    except FileNotFoundError:
        return False


ETC = "/etc/netns"
"""The directory of namespaces' files of /etc (ip-netns(8))."""
_LABEL = r"[a-z0-9.-]+"
_KINDS: dict[str, tuple[Callable[[str], None], Callable[[str], str]]] = {
    "netns": (netns.delete, lambda run: rf"{run}-{_LABEL}"),
    "process": (process.end, lambda run: process.IDENTITY),
    "cgroup": (_remove_cgroup, lambda run: rf"/sys/fs/cgroup/vip-bench-{run}(/{_LABEL})?"),
    "scratch": (_remove_path, lambda run: re.escape(os.path.join(directory(), run))),
    "etc": (_remove_path, lambda run: rf"{re.escape(ETC)}/{run}-{_LABEL}"),
    "partial": (_remove_path, lambda run: rf"(/[^/\0]+)*/\.[^/\0]+\.{run}"),
    "empty-directory": (_remove_empty, lambda run: re.escape(ETC)),  # only if it is empty
}


def _is_ours(kind: object, name: object, run: str) -> bool:
    """Return True if the run may have recorded this. No part of a path is `..`, which would lead elsewhere."""
    if not isinstance(kind, str) or not isinstance(name, str) or kind not in _KINDS or ".." in name.split("/"):
        return False
    return re.fullmatch(_KINDS[kind][1](run), name) is not None


def _undo(kind: str, name: str) -> None:
    _KINDS[kind][0](name)


class Journal:
    """The state file of one run. It is a context manager: leaving it undoes what is still recorded."""

    def __init__(self) -> None:
        """Open a new state file. Raises Prerequisite if none can be written."""
        self._entries: list[tuple[str, str]] = []
        self._length = 0
        self._handle = -1
        base = directory()
        try:
            with interrupt.held():
                self.run, self._path, self._handle = _new(base)
        except KeyboardInterrupt:  # by a signal that has waited for the block's end: nobody has the journal yet
            if self._handle >= 0:
                self.undo()
            raise
        except OSError as error:
            raise Prerequisite("cannot write the state file", where=base, why=error.strerror or "") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def record(self, kind: str, name: str) -> None:
        """Record that `name` is about to be created. Raises Prerequisite if the file cannot grow."""
        assert _is_ours(kind, name, self.run), (kind, name)
        interrupt.strike_again()
        line = json.dumps([kind, name]).encode() + b"\n"
        try:
            if os.write(self._handle, line) < len(line):
                raise OSError(28, os.strerror(28))  # ENOSPC: the last block took a part of the line
        except OSError as error:
            os.ftruncate(self._handle, self._length)
            raise Prerequisite("cannot write the state file", where=self._path, why=error.strerror or "") from error
        self._length += len(line)
        self._entries.append((kind, name))

    def process(self, pid: int) -> None:
        """Record a child that was just started.

        Before its start it has no number; until now it ends only when we end.
        """
        name = process.identity(pid)
        if name:
            self.record("process", name)

    def discharge(self, kind: str, name: str) -> None:
        """Undo one entry now, before the others."""
        if (kind, name) in self._entries:
            _undo(kind, name)
            self._entries.remove((kind, name))

    def scratch(self, name: str) -> str:
        """Return a path in a directory of this run, which is removed with the run."""
        path = os.path.join(directory(), self.run)
        if ("scratch", path) not in self._entries:
            self.record("scratch", path)
            os.makedirs(path, mode=0o700, exist_ok=True)
        return os.path.join(path, name)

    def etc(self, name: str) -> str:
        """Create the directory of a namespace's files of /etc (ip-netns(8)), and return its path. Raises OSError.

        The directory above is shared by all runs, of which the last one removes it, unless somebody else created it.
        """
        path = f"{ETC}/{name}"
        if ("empty-directory", ETC) not in self._entries and not _is_anothers(ETC):
            self.record("empty-directory", ETC)
        self.record("etc", path)
        while True:
            with suppress(FileExistsError):
                os.mkdir(ETC, 0o755 | stat.S_ISVTX)
            with suppress(FileNotFoundError):  # the run that was the last one until now has just removed it
                os.mkdir(path)
                return path

    def partial(self, path: str | os.PathLike[str]) -> str:
        """Return a path beside another, for a file that is renamed to it when it is complete."""
        where, name = os.path.split(os.path.abspath(path))
        partial = os.path.join(where, f".{name}.{self.run}")
        self.record("partial", partial)
        return partial

    def undo(self) -> None:
        """Undo everything, the last entry first.

        If a step fails, raise its error at the end, and keep the file for `clean`.
        """
        with interrupt.held():  # the program ends anyway, and a signal must not keep the rest from being undone
            failures = _undo_all(self._entries)
            self._entries.clear()
            if not failures:
                _remove_path(self._path)
            os.close(self._handle)
            _remove_empty(directory())
        if failures:
            raise failures[0]


def _new(base: str) -> tuple[str, str, int]:
    """Return a new run's name, and its state file, locked."""
    os.makedirs(os.path.dirname(base), exist_ok=True)
    while True:
        with suppress(FileExistsError):
            os.mkdir(base, 0o700)
        run = "b" + os.urandom(3).hex()
        path = os.path.join(base, f"{run}.jsonl")
        with suppress(FileExistsError, FileNotFoundError):  # not found: the last run that ended removed the directory
            _demand_ours(base)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                return run, path, handle
            os.close(handle)  # a `clean` was quicker than the lock, and took the file for a dead run's


def _is_at(handle: int, path: str) -> bool:
    """Return True if the open file still has that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _undo_all(entries: list[tuple[str, str]]) -> list[BenchError]:
    failures = []
    for kind, name in reversed(entries):
        try:
            _undo(kind, name)
        except BenchError as error:
            failures.append(error)
    return failures


@contextmanager
def _abandoned(path: str) -> Iterator[bytes | None]:
    """Yield the content of a state file and lock it for the block. Yield None if the file is in use or gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:  # its run has just ended
        yield None
        return
    except OSError as error:
        raise BenchError("cannot read the state file", where=path, why=error.strerror or "") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BenchError(
            "cannot read the state file", where=path, why="it is not a file", fix="look at it, and remove it"
        )
    with os.fdopen(handle, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.read() if _is_at(file.fileno(), path) else None


def _parse(data: bytes, path: str, run: str) -> tuple[list[tuple[str, str]], list[BenchError]]:
    """Return the entries to undo, and an error for each line that is not understood.

    A last line that was cut off names something that was not created yet.
    """
    entries, strange = [], []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            kind, name = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            kind = name = None
        if _is_ours(kind, name, run):
            entries.append((kind, name))
        else:
            fix = "the rest was removed; look at the file, then delete it"
            why = "it is not a line this program writes"
            strange.append(BenchError("nothing was removed for it", where=f"{path}:{number}", why=why, fix=fix))
    return entries, strange


def _clean_one(path: str, run: str) -> tuple[list[str], list[BenchError]] | None:
    """Undo one dead run. Return what was removed, and what failed; or None if the run is not dead."""
    with _abandoned(path) as data:
        if data is None:
            return None
        entries, failures = _parse(data, path, run)
        failures += _undo_all(entries)
        if not failures:
            _remove_path(path)
        return [f"removed {kind} {name}" for kind, name in entries], failures


def _listed(base: str) -> list[str]:
    """List the directory. The last run that ends removes it."""
    try:
        _demand_ours(base)
        return sorted(os.listdir(base))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Prerequisite("cannot read the state files", where=base, why=error.strerror or "") from error


def clean() -> list[str]:
    """Undo what dead runs left. Return one line per entry that was still recorded. Raises the first failure.

    A dead run may have owned another run. That one's processes are ended with it, and then it is its turn.
    """
    base = directory()
    report: list[str] = []
    failures: dict[str, list[BenchError]] = {}
    found = True
    while found:
        found = False
        for entry in _listed(base):
            named = _FILE.fullmatch(entry)
            if not named or entry in failures:
                continue
            try:
                done = _clean_one(os.path.join(base, entry), named[1])
            except BenchError as error:  # other runs are still cleaned up
                done = [], [error]
            if done:
                found = True
                report += done[0]
                if done[1]:
                    failures[entry] = done[1]
    _remove_empty(base)
    for each in failures.values():
        raise each[0]
    return report
