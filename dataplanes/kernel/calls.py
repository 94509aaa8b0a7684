"""Calls of somebody else's program in a namespace: a process for each call, or one that answers them all.

What the program says goes to files. It may leave a daemon behind that still has its stdout and stderr: with a pipe, a
call would not end before the daemon does, and the daemon would end when it writes to a pipe that nobody reads.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import IO, NamedTuple

from dataplanes.errors import BenchError, Prerequisite, TimedOut
from dataplanes.kernel import interrupt, netns
from dataplanes.kernel.enclosure import Enclosure, enter
from dataplanes.kernel.process import die_with_parent, take_signals

_MOST = 16 << 20
"""Bytes of one answer."""
_LARGEST = 64 << 20
"""Bytes of a file that the program may write, so that one that goes wild does not fill the memory."""


class Callee(NamedTuple):
    """A program, and where it is called."""

    name: str  # for errors
    argv: tuple[str, ...]
    cwd: str
    netns: str
    enclosure: Enclosure
    env: Mapping[str, str]
    said: str  # the path of the file that stderr goes to; stdout's has `.out` at its end
    timeout: float

    def start(self, *arguments: str, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        """Start the program. Raises Prerequisite if the machine cannot execute it."""
        interrupt.strike_again()
        stderr = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            with interrupt.held(), self.enclosure.begin() as mounts, netns.inside(self.netns):
                return subprocess.Popen(
                    (*self.argv, *arguments),
                    env=self.env,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    preexec_fn=partial(_become, mounts, self.cwd),
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            why = getattr(error, "strerror", None) or str(error)
            fix = "a script begins with #! and its interpreter"
            raise Prerequisite(f"{self.name} cannot be started", where=self.argv[0], why=why, fix=fix) from error
        finally:
            os.close(stderr)

    def reason(self) -> str:
        """Return the last line that the program wrote to stderr, or ""."""
        with suppress(OSError), open(self.said, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode("utf-8", "replace").replace("\0", "").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def broken(self, verb: str, code: int) -> BenchError:
        """Return the error for a program that a signal has ended."""
        with suppress(ValueError):
            return self.error(f"was killed by {signal.Signals(-code).name} during {verb}", self.reason())
        return self.error(f"was killed by signal {-code} during {verb}", self.reason())

    def late(self, verb: str) -> TimedOut:
        """Return the error for a program that does not answer."""
        fix = "`timeout` in the plane file gives it more time"
        said = self.reason()
        why = f"it takes longer than {self.timeout:g} s" + (f"; its last line is {said!r}" if said else "")
        return TimedOut(f"{self.name} does not end its {verb}", where=self.netns, why=why, fix=fix)

    def error(self, what: str, why: str, fix: str = "") -> BenchError:
        """Return an error about the program."""
        return BenchError(f"{self.name} {what}", where=self.netns, why=why, fix=fix)


class Ended(NamedTuple):
    """A call that has ended: its exit code and what it said."""

    code: int
    output: bytes


def call(callee: Callee, verb: str, document: bytes) -> Ended:
    """Run the program with a verb and a document on its stdin, and wait until it ends.

    Raises TimedOut, and BenchError for a signal that has ended it. Only the program itself is waited for.
    """
    with _document(document) as given, open(f"{callee.said}.out", "wb+", buffering=0) as answer:
        handle = os.open(answer.name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            process = callee.start(verb, stdin=given.fileno(), stdout=handle)
        finally:
            os.close(handle)
        try:
            if not _ends(process, callee.timeout):
                raise callee.late(verb)
            code = process.wait()
        finally:
            _kill(process)
        if code < 0:
            raise callee.broken(verb, code)
        return Ended(code, _bounded(answer.read(_MOST + 1), callee, verb))


def _document(document: bytes) -> IO[bytes]:
    """Return an open file with the document, which has no name."""
    file = open(os.memfd_create("document"), "wb+", buffering=0)  # noqa: SIM115
    file.write(document)
    file.seek(0)
    return file


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait until a process has ended. Return False if it has not."""
    handle = os.pidfd_open(process.pid)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(handle)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a call that has not ended, with what it has started for itself."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _bounded(data: bytes, callee: Callee, verb: str) -> bytes:
    if len(data) > _MOST:
        raise callee.error(f"answers {verb} at length", f"more than {_MOST >> 20} MiB on stdout")
    return data


def _become(mounts: int, cwd: str) -> None:
    """Prepare a child that becomes the program. It ends with this process: the enclosure does.

    It is a process group, which can be ended as one. It is no session: where the scheduler groups tasks by session
    (CONFIG_SCHED_AUTOGROUP), the first steps of a new one took half a second on a busy machine.
    """
    die_with_parent()
    os.setpgid(0, 0)
    enter(mounts)
    os.chdir(cwd)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST, _LARGEST))
    take_signals()


class ServingProgram:
    """The program as one process that reads a line for each call, and answers with a line."""

    def __init__(self, callee: Callee) -> None:
        """Start it. Raises Prerequisite if the machine cannot execute it."""
        self._callee = callee
        self._process = callee.start("serve", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._rest = b""

    def call(self, verb: str, document: bytes) -> bytes:
        """Send a line and return the answer. Raises TimedOut, or BenchError if the program has ended.

        After an error the program is of no use any more.
        """
        if self._said_more():
            raise self._callee.error("answers without being asked", f"a line before {verb}: {self._rest[:80]!r}")
        deadline = time.monotonic() + self._callee.timeout
        left = memoryview(document)
        while b"\n" not in self._rest:
            wanted = select.poll()
            wanted.register(self._from, select.POLLIN)
            if left:
                wanted.register(self._to, select.POLLOUT)
            ready = dict(wanted.poll(max(deadline - time.monotonic(), 0) * 1000))
            if not ready:
                raise self._callee.late(verb)
            if self._to in ready:
                left = left[self._write(left) :]
            if self._from in ready and not self._read(verb):
                raise self._ended(verb)
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _said_more(self) -> bool:
        """Return True if the program has said something after its last answer."""
        with suppress(BlockingIOError):
            self._rest += os.read(self._from, 65536)  # at its end this is nothing, and the call tells of it
        return bool(self._rest)

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._to, data[:65536])
        except BlockingIOError:
            return 0
        except BrokenPipeError:  # it has ended, or does not read; the answer tells
            return len(data)

    def _read(self, verb: str) -> bool:
        data = os.read(self._from, 65536)
        self._rest = _bounded(self._rest + data, self._callee, verb)
        return bool(data)

    def _ended(self, verb: str) -> BenchError:
        """Return the error for a program that has closed its stdout."""
        if not _ends(self._process, 1):
            return self._callee.error(f"has closed its stdout during {verb}", self._callee.reason())
        code = self._process.wait()
        if code < 0:
            return self._callee.broken(verb, code)
        return self._callee.error(f"has ended with exit code {code} during {verb}", self._callee.reason())

    def close(self) -> None:
        """End the program."""
        _kill(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()
