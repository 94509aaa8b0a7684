"""Short-lived helper programs (iptables-restore, conntrack, ...) run in a namespace."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import interrupt, netns

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with(parent: int) -> None:
    """Called in a child of `parent`: go when it goes, however it goes, even if it has gone already.

    The kernel tells of the deaths that come after the asking (prctl(2), PR_SET_PDEATHSIG).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def become_command(parent: int) -> None:
    """Called in a child that becomes a user's command: signals strike it as any other, and it goes when we do."""
    die_with(parent)
    for number in interrupt.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupt.SIGNALS)


def run(name: str, argv: Sequence[str], stdin: str = "", *, accept: Sequence[int] = (0,)) -> str:
    """Run a program in a namespace and return its stdout.

    No time-out: under the instruction clock a moment's reading from the machine's disk may be minutes of guest time.
    Raises Prerequisite when the program is not installed, KernelRefused with its last error line when it fails.
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
