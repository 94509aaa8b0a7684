"""Jobs on several kernels at once: a process each, because a kernel's signals and streams want one to themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import msgspec

from bench.documents import Event, Job
from bench.kernels import Kernel
from bench.kernels.owned import owned
from bench.kernels.relay import Lines, Relay, signals
from dataplanes import catalog
from dataplanes.errors import BenchError
from dataplanes.kernel import interrupt
from dataplanes.kernel.procfs import field

_Share = TypeVar("_Share")
_decoder = msgspec.json.Decoder(Event)
_GUEST_KB = 1 << 20
"""What a guest comes to use of this machine's memory: half of it in the seed's world, all of it at 10,000 services or
with bcc's compiler in it."""


def lanes(kernel: Kernel, dataplanes: int, kernels: int = 1, *, jobs: int | None = None) -> int:
    """How many guests share the planes' work on one of so many kernels. More than one only by the instruction clock: to
    its figures another guest's load is nothing. `jobs`: all kernels' guests together, at most."""
    if kernel.clock != "instructions":
        return 1
    room = min(len(os.sched_getaffinity(0)), int(field("/proc/meminfo", "MemAvailable").split()[0]) // _GUEST_KB)
    return max(1, min(room // kernels, (jobs or room) // kernels, dataplanes))


def batches(shares: Sequence[_Share], jobs: int | None) -> list[Sequence[_Share]]:
    """Those that may run side by side; all of them, if nobody says how many."""
    size = jobs or max(len(shares), 1)
    return [shares[start : start + size] for start in range(0, len(shares), size)]


def deal(dataplanes: Sequence[str], lanes: int) -> list[list[str]]:
    """Each guest's planes: whole planes, so that each warms up what it measures."""
    return [list(dataplanes[lane::lanes]) for lane in range(lanes)]


class Worker:
    """A job on one kernel, in a process of its own; its events come on its stdout."""

    def __init__(self, kernel: str, clock: str, dataplanes: Sequence[str], job: Job, timeout: float | None) -> None:
        self.kernel = kernel
        given = msgspec.json.encode(job).decode()
        told = (kernel, clock, ",".join(dataplanes), str(timeout or 0), given)
        self._argv: Sequence[str] = (sys.executable, "-m", "bench.start", "parallel", *told)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start it; on leaving it is gone."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with owned(self._argv, **streams, start_new_session=True) as process:
            yield process


def gather(workers: Sequence[Worker], take: Callable[[str, Event], None]) -> None:
    """Hand on every event with its kernel's name until all have ended. The first error ends all, and is raised.

    An error of `take` is one, too. Workers are asked to end and not killed: on the host one has namespaces to remove.
    """
    _Gathering(workers, take).run()


class _Gathering:
    def __init__(self, workers: Sequence[Worker], take: Callable[[str, Event], None]) -> None:
        self._workers = workers
        self._take = take
        self._failure: list[Exception] = []
        self._caught: list[int] = []
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def run(self) -> None:
        relay = Relay(None)
        with ExitStack() as stack:
            stack.callback(relay.close)
            relay.watch(stack.enter_context(signals()), self._forward, counts=False)
            for each in self._workers:
                process = stack.enter_context(each.running())
                assert process.stdout
                relay.watch(process.stdout.fileno(), Lines(partial(self._receive, each.kernel)).feed)
                self._running.append((each.kernel, process))
            relay.run()
            codes = [(kernel, process.wait()) for kernel, process in self._running]
        if self._caught:
            interrupt.strike(self._caught[0])
        if self._failure:
            raise self._failure[0]
        for kernel, code in codes:
            if code:
                raise BenchError("the run ended early", where=kernel, why=f"exit code {code}")

    def _receive(self, kernel: str, line: bytes) -> None:
        try:
            event = _decoder.decode(line)
            if event.kind == "error":
                raise event.error()
            self._take(kernel, event)
        except Exception as error:  # raised at the end: until then somebody must read, or the workers cannot end
            if not self._failure:
                self._end()
            self._failure.append(error)

    def _forward(self, numbers: bytes) -> None:
        for number in numbers:
            if number != signal.SIGWINCH:
                self._caught.append(number)
                self._end()

    def _end(self) -> None:
        for _, process in self._running:
            process.terminate()


def main() -> int:
    """The worker: dispatch the job, events to stdout."""
    from bench import kernels
    from bench.outside.dispatch import dispatch

    interrupt.catch()
    kernel, clock, dataplanes, timeout, job = sys.argv[1:]

    def tell(event: Event) -> None:
        os.write(1, msgspec.json.encode(event) + b"\n")

    try:
        chosen = kernels.resolve(kernel, clock if kernel != "host" else None)
        given = msgspec.json.decode(job, type=Job)
        return dispatch(given, chosen, catalog.select(dataplanes), timeout=float(timeout) or None, on_event=tell)
    except BenchError as error:
        tell(Event.of(error))
        return error.exit_code
    except KeyboardInterrupt as caught:
        return 128 + (caught.args[0] if caught.args else signal.SIGINT)
