"""Processes: short-lived helpers in a namespace, children that end with their parent, and names for processes."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from dataplanes.errors import BenchError, KernelRefused, Prerequisite
from dataplanes.kernel import interrupt, netns

_PR_SET_PDEATHSIG = 1
_CLONE_NEWPID, _CLONE_NEWNS = 0x20000000, 0x00020000
_MNT_DETACH = 2
_PATIENCE = 10_000
"""Milliseconds that a killed process may take to end."""
IDENTITY = r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9a-f-]+"
"""The pattern of the names that `identity` returns."""
_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """Make a child of `parent` end when the parent ends, however that happens, even if it has ended already.

    The child calls this. The kernel signals only deaths after the prctl(2) (PR_SET_PDEATHSIG), so the parent is
    checked.
    """
    die_with_parent()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_parent() -> None:
    """Make a child end when its parent ends, unless that has ended already.

    In a PID namespace of its own a child cannot tell: the number of a parent outside is always 0.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def become_command(parent: int) -> None:
    """Prepare a child that becomes a user's command. It gets signals as any other command, and ends when we end."""
    die_with(parent)
    take_signals()


def take_signals() -> None:
    """Let a child get signals as any other command does."""
    for number in interrupt.SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a signal that nohup(1) ignores stays ignored
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupt.SIGNALS)


def keep_only(handle: int) -> None:
    """Close all descriptors but one, in a child that goes on without exec.

    A state file that such a child held open would stay locked, as if its owner lived.
    """
    os.closerange(3, handle)
    os.closerange(handle + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def tied() -> Callable[[], None]:
    """Return a function for Popen's `preexec_fn` (see become_command)."""
    return partial(become_command, os.getpid())


def owners(parent: int) -> None:
    """Prepare a child that becomes a command of the machine's owner, who knows processes by the machine's numbers.

    Our /proc, which bench/kernels/keep.c has mounted upon the machine's, is taken away in a mount namespace of its own.
    """
    become_command(parent)
    if "BENCH_PROC" in os.environ and (_libc.unshare(_CLONE_NEWNS) or _libc.umount2(b"/proc", _MNT_DETACH)):
        raise OSError(ctypes.get_errno(), "the machine's /proc")


def become_shell(parent: int) -> None:
    """Prepare a child that becomes a user's shell, which is a command with the terminal.

    A shell gives the terminal back to the group that had it before, and complains if that group belongs to another PID
    namespace and so has no number. So the shell gets the terminal as a group of its own.
    """
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    with suppress(OSError):  # the terminal is not ours
        os.tcsetpgrp(0, os.getpid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})
    become_command(parent)


@contextmanager
def pid_namespace() -> Iterator[None]:
    """Start the next process in the block as the first one of a new PID namespace. Raises Prerequisite."""
    home = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWPID):
            why, fix = os.strerror(ctypes.get_errno()), "run as root, or use --kernel guest"
            raise Prerequisite("cannot make a PID namespace", why=why, fix=fix)
        try:
            yield
        finally:
            _libc.setns(home, _CLONE_NEWPID)
    finally:
        os.close(home)


def identity(pid: int) -> str:
    """Return a name that no other process has, not later, not after a reboot, not in another PID namespace.

    It holds the process's number, its start in clock ticks since boot, the namespace of the number, and the boot. It is
    "" if the process has ended.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    if fields[0] == "Z":  # a zombie has ended for our purposes
        return ""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{pid}.{fields[19]}.{os.stat('/proc/self/ns/pid').st_ino}.{file.read().strip()}"


def end(name: str) -> None:
    """Kill the process with this identity if it runs, and wait until it has ended.

    Raises BenchError if it does not end.
    """
    pid = int(name.partition(".")[0])
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # no such process
        return
    try:
        if identity(pid) != name:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        gone = select.poll()
        gone.register(handle, select.POLLIN)
        if not gone.poll(_PATIENCE):
            raise BenchError("a killed process does not end", where=f"process {pid}", why="the kernel holds it")
    finally:
        os.close(handle)


def run(name: str, argv: Sequence[str], stdin: str = "", *, accept: Sequence[int] = (0,)) -> str:
    """Run a program in a namespace and return its stdout.

    There is no time-out: under the instruction clock a short read from the machine's disk may take minutes of guest
    time. Raises Prerequisite if the program is not installed, and KernelRefused with its last error line if it fails.
    """
    with netns.inside(name):
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise Prerequisite(f"{argv[0]} is not installed", where=name) from error
    if done.returncode not in accept:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise KernelRefused(f"{argv[0]} failed", where=name, why=lines[0] if len(lines) == 1 else "; ".join(lines[:3]))
    return done.stdout
