"""The lanes in which guests share a command's work: `Here`, on this machine, or on others (outside/cluster.py).

By the instruction clock neither the load by other guests nor the machine matters to a figure, and checks measure
nothing. So a command's data planes are dealt to lanes, and each lane does its share in a guest of its own, or beside
the others on the machine's own kernel.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct

from bench.documents import Event, Job
from bench.kernels import Kernel
from bench.kernels.relay import Lines, Relay, signals
from bench.outside.dispatch import dispatch
from bench.outside.lane import Order, running
from bench.prepare.ready import make_ready
from dataplanes import follower
from dataplanes.errors import BenchError, TimedOut
from dataplanes.kernel import interrupt
from dataplanes.kernel.procfs import field

Told = Callable[[str, Event], None]
"""A function that is called with the kernel's name and each event."""
_T = TypeVar("_T")
_decoder = msgspec.json.Decoder(Event)
_GUEST_KB = 1 << 20
"""The part of this machine's memory that a guest comes to use.

It is half in the seed's world, and all of it with 10,000 services or with bcc's compiler.
"""

_WAITING = 4
"""Lanes for each processor where nothing is measured on the machine's own kernel: most of the time checks wait."""


class Share(Struct, frozen=True):
    """The work of one guest: a job for some data planes on one kernel."""

    kernel: Kernel
    job: Job
    tty: bool = False  # the job may ask for the terminal

    def workloads(self) -> set[str]:
        """Return the names of the workloads that the job measures."""
        return {trial.workload for trial in self.job.trials}

    def order(self, timeout: float | None) -> Order:
        """Return the share as the order of a separate process."""
        return Order(self.kernel.name, self.kernel.clock, self.job, timeout)


class Lanes(ABC):
    """Guests that run side by side and share the work of a command."""

    def clock(self, asked: str | None) -> str | None:
        """Return the clock to use if `asked` was asked for. Raises Usage if these lanes cannot use it."""
        return asked

    @abstractmethod
    def count(self, kernel: Kernel, units: int, kernels: int = 1, timed: bool = True) -> int:
        """Return how many guests share so many units of work, such as planes, on one of so many kernels at once.

        `timed`: the work measures by the kernel's clock.
        """

    @abstractmethod
    def deal(self, kernel: Kernel, planes: Sequence[_T], kernels: int = 1, timed: bool = True) -> list[list[_T]]:
        """Return the planes of each guest. A guest gets whole planes, because it warms up what it measures."""

    @abstractmethod
    def run(self, shares: Sequence[Share], take: Told, timeout: float | None = None) -> None:
        """Have every share done, and call `take` for each event. The first error ends all shares and is raised.

        Raises TimedOut after `timeout` seconds.
        """


class Here(Lanes):
    """Guests on this machine, in `jobs` lanes at most.

    Several guests have a process each, because a kernel's signals and streams need a process of their own.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs

    def count(self, kernel: Kernel, units: int, kernels: int = 1, timed: bool = True) -> int:
        if kernel.clock != "instructions" and (timed or not kernel.accelerated):
            return 1
        room = len(os.sched_getaffinity(0))
        if not kernel.emulator:
            room *= _WAITING
        else:
            room = min(room, int(field("/proc/meminfo", "MemAvailable").split()[0]) // _GUEST_KB)
        return max(1, min(room // kernels, (self._jobs or room) // kernels, units))

    def deal(self, kernel: Kernel, planes: Sequence[_T], kernels: int = 1, timed: bool = True) -> list[list[_T]]:
        count = self.count(kernel, len(planes), kernels, timed)
        return [list(planes[lane::count]) for lane in range(count)]

    def run(self, shares: Sequence[Share], take: Told, timeout: float | None = None) -> None:
        if len(shares) == 1:
            _directly(shares[0], take, timeout)
            return
        make_all_ready(shares)  # once, and not in every lane
        deadline = timeout and time.monotonic() + timeout
        for batch in batches(shares, self._jobs):
            left = deadline and deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimedOut("time is up", why=f"{timeout:g} s")
            _Gathering([(share.kernel.name, share.order(left)) for share in batch], take).run()


def make_all_ready(shares: Sequence[Share]) -> None:
    """Make each kernel ready for its shares. Raises Prerequisite if it or the machine lacks something."""
    for kernel in {share.kernel.name: share.kernel for share in shares}.values():
        own = [share for share in shares if share.kernel.name == kernel.name]
        planes = {plane.name: plane for share in own for plane in share.job.selections}
        more = follower.REQUIRES if any(share.job.traced for share in own) else ()
        workloads = {name for share in own for name in share.workloads()}
        make_ready([*planes.values()], kernel, workloads, more, evidence=any(share.job.evidence for share in own))


def batches(shares: Sequence[_T], jobs: int | None) -> list[Sequence[_T]]:
    """Return how many shares may run side by side; all of them, if no number is given."""
    size = jobs or max(len(shares), 1)
    return [shares[start : start + size] for start in range(0, len(shares), size)]


def early(where: str, code: int) -> BenchError:
    """Return the error of a lane that ended with an exit code and did not say why."""
    return BenchError("the run ended early", where=where, why=f"exit code {code}")


def _directly(share: Share, take: Told, timeout: float | None) -> None:
    name = share.kernel.name
    code = dispatch(share.job, share.kernel, timeout=timeout, tty=share.tty, on_event=partial(take, name))
    if code:
        raise early(name, code)


class _Gathering:
    """Lanes that run at the same time, from their start until all have ended.

    If one fails, or an event cannot be taken, all are asked to end. They are not killed, because on the host a lane has
    namespaces to remove.
    """

    def __init__(self, orders: Sequence[tuple[str, Order]], take: Told) -> None:
        self._orders = orders
        self._take = take
        self._failure: list[Exception] = []
        self._caught: list[int] = []
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def run(self) -> None:
        relay = Relay(None)
        with ExitStack() as stack:
            stack.callback(relay.close)
            relay.watch(stack.enter_context(signals()), self._forward, counts=False)
            for kernel, order in self._orders:
                process = stack.enter_context(running(order))
                assert process.stdout
                relay.watch(process.stdout.fileno(), Lines(partial(self._receive, kernel)).feed)
                self._running.append((kernel, process))
            relay.run()
            codes = [(kernel, process.wait()) for kernel, process in self._running]
        if self._caught:
            interrupt.strike(self._caught[0])
        if self._failure:
            raise self._failure[0]
        for kernel, code in codes:
            if code:
                raise early(kernel, code)

    def _receive(self, kernel: str, line: bytes) -> None:
        try:
            event = _decoder.decode(line)
            if event.kind == "error":
                raise event.error()
            self._take(kernel, event)
        except Exception as error:  # raised at the end: until then the lanes' output must be read, or they cannot end
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
