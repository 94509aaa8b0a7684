"""The process of a lane: `python -m bench.start lane PARENT`. It does one share of the work on one kernel.

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
"""The command of a lane. The process number of its parent is the last argument."""


class Order(Struct, frozen=True):
    """The order of a lane."""

    kernel: str
    clock: str
    job: Job
    timeout: float | None = None  # in seconds of real time


@contextmanager
def running(order: Order) -> Iterator[subprocess.Popen[bytes]]:
    """Start a lane, and end it when the block is left.

    The lane ties itself to this process, because Python code between fork and exec is safe only with a single thread.
    """
    argv = (*PROGRAM, str(os.getpid()))
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with owned(argv, **streams, start_new_session=True, preexec_fn=None) as process:
        assert process.stdin
        with suppress(BrokenPipeError), process.stdin:  # its exit code tells how it ended
            process.stdin.write(msgspec.json.encode(order))
        yield process


def main() -> int:
    """Carry out the order, and return the exit code."""
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
