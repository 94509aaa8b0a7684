"""Processes that end with us, whatever we end of, kill -9 included.

How it is done, everywhere: a process we start asks the kernel for its parent's death (prctl(2), PR_SET_PDEATHSIG), and
so do those it starts, bench, its workers, QEMU: the chain needs no privilege. But the wish is not inherited, and what a
user starts in a lab asks for nothing: so the last link is always a first process, QEMU, whose guest ends with it, or
on the host `keep` (bench/kernels/keep.c), the first process of a PID namespace, which the kernel ends with it. Whatever
session, parent or cgroup a process has given itself, it does not leave these two.

(The wish is also lost when a set-user-ID program is executed, and granted when the *thread* ends that started us. We
execute none, and the first thread, which ends last, starts all.)
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
    """Start a process; on leaving it is gone. The state file names it: `bench clean` need not wait for its end.

    SIGINT, SIGTERM and SIGHUP are blocked while it is started. A `preexec_fn` of one's own may leave them so.
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
                process.kill()  # nothing happens to one that was waited for
                process.wait()
                for stream in (process.stdout, process.stderr):
                    if stream:
                        stream.close()
