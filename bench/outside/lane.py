"""The process of a lane: `python -m bench.start lane PARENT`. It has one share of the work done on one kernel.

The order is JSON on its stdin. Events go to its stdout, a JSON line each. Signals end it, and it ends with its parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
from msgspec import Struct

from bench.documents import Event, Job
from bench.kernels.owned import owned
from dataplanes.errors import BenchError
from dataplanes.kernel import interrupt
from dataplanes.kernel.process import die_with

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "bench.start", "lane")
"""What runs in a lane; the last argument is its parent's process number."""


class Order(Struct, frozen=True):
    """What a lane is to do."""

    kernel: str
    clock: str
    job: Job
    timeout: float | None = None  # seconds of real time


@contextmanager
def running(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    """Start a lane; on leaving it is gone.

    It ties itself to this process: to run Python between fork and exec is safe in a process with one thread only.
    """
    argv = (*PROGRAM, str(os.getpid()))
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with owned(argv, **streams, start_new_session=True, preexec_fn=None) as process:
        assert process.stdin
        with suppress(BrokenPipeError), process.stdin:  # its end is told by its exit code
            process.stdin.write(msgspec.json.encode(order))
        yield process


def main() -> int:
    """Have the order carried out; returns the exit code."""
    from bench import kernels
    from bench.outside.dispatch import dispatch

    die_with(int(sys.argv[1]))
    interrupt.catch()

    def tell(event: Event) -> None:
        os.write(1, msgspec.json.encode(event) + b"\n")

    try:
        order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
        kernel = kernels.resolve(order.kernel, order.clock if order.kernel != "host" else None)
        return dispatch(order.job, kernel, timeout=order.timeout, on_event=tell)
    except BenchError as error:
        tell(Event.of(error))
        return error.exit_code
    except KeyboardInterrupt as caught:
        return 128 + (caught.args[0] if caught.args else signal.SIGINT)
