"""Enclosures: PID namespaces in which somebody else's programs run, so that all that they start ends at once.

No session and no parent of a process lets it leave its PID namespace, and with the first process of the namespace the
kernel ends all others. That first process only waits, and it ends with the process that has made it. A process number
is valid in one PID namespace only, so an enclosure has its own /proc.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dataplanes.errors import KernelRefused
from dataplanes.kernel import interrupt
from dataplanes.kernel.process import die_with_parent, keep_only, pid_namespace

_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class Enclosure:
    """A PID namespace. `pid` is its first process, which whoever makes an enclosure records."""

    def __init__(self) -> None:
        """Make it. Raises KernelRefused, or Prerequisite without privilege."""
        interrupt.strike_again()
        ours, theirs = os.pipe()
        try:
            with interrupt.held(), pid_namespace():
                self.pid = os.fork()
                if not self.pid:
                    _wait_for_ever(theirs)
            os.close(theirs)
            theirs = -1
            failed = os.read(ours, 1)
        finally:
            os.close(ours)
            if theirs >= 0:
                os.close(theirs)
        if failed != b"\0":
            self.close()
            why = os.strerror(failed[0]) if failed else "its first process has ended"
            raise KernelRefused("cannot enclose a program", where=f"process {self.pid}", why=why)

    @contextmanager
    def begin(self) -> Iterator[int]:
        """Start the next process in the block in the enclosure. Yield the descriptor of its mount namespace.

        The new process enters that itself (`enter`).
        """
        home = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            try:
                mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _call(_libc.setns(there, _CLONE_NEWPID), "cannot enter the PID namespace of a program")
                    yield mounts
                finally:
                    _libc.setns(home, _CLONE_NEWPID)
                    os.close(mounts)
            finally:
                os.close(there)
        finally:
            os.close(home)

    def close(self) -> None:
        """End everything in the enclosure. Its processes that are children of this one have been waited for."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def enter(mounts: int) -> None:
    """Enter the enclosure's mount namespace, in a new process. Its directory is then the root."""
    _call(_libc.setns(mounts, _CLONE_NEWNS), "cannot enter the mount namespace of a program")


def _call(result: int, what: str) -> None:
    if result:
        raise KernelRefused(what, why=os.strerror(ctypes.get_errno()))


def _wait_for_ever(ready: int) -> None:
    """Be the first process of the namespace: mount /proc, tell the parent, and reap whatever ends."""
    die_with_parent()
    keep_only(ready)
    failed = (
        _libc.unshare(_CLONE_NEWNS)
        or _libc.mount(None, b"/proc", None, _MS_PRIVATE | _MS_REC, None)
        or _libc.mount(b"proc", b"/proc", b"proc", 0, None)
    )
    os.write(ready, bytes([(ctypes.get_errno() or errno.EINVAL) if failed else 0]))
    if failed:
        os._exit(1)
    os.close(ready)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})
