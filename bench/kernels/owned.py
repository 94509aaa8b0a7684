"""Processes that end with this process, however it ends, even by kill -9.

A process that we start asks the kernel for its parent's death (prctl(2), PR_SET_PDEATHSIG). So do the processes that it
starts: bench, its workers, QEMU. This chain needs no privilege. But the request is not inherited, and a user's programs
in a lab do not make it. So the last link is always a first process. In a guest that is QEMU, with which everything in
the guest ends. On the host it is `keep` (bench/kernels/keep.c), the first process of a PID namespace, with which the
kernel ends the namespace. No session, parent or cgroup of a process lets it leave these two.

(The request is also lost when a set-user-ID program is executed, and it is granted when the *thread* ends that started
the process. We execute no such program, and our first thread, which ends last, starts all processes.)
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dataplanes.kernel import interrupt
from dataplanes.kernel.process import tied
from scenarios.journal import Journal


@contextmanager
def owned(argv: Sequence[str], **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, and end it when the block is left.

    The state file lists it, so `bench clean` need not wait for its end.

    SIGINT, SIGTERM and SIGHUP are blocked while it is started. A `preexec_fn` may leave them so.
    """
    process: subprocess.Popen[bytes] | None = None
    with Journal() as journal:
        try:
            with interrupt.held():
                process = subprocess.Popen(argv, **{"preexec_fn": tied(), **popen})
            journal.process(process.pid)
            yield process
        finally:
            if process:
                process.kill()  # no error for a process that has already been waited for
                process.wait()
                for stream in (process.stdout, process.stderr):
                    if stream:
                        stream.close()
