"""Assignments that are dealt to the workers of a cluster, until all of them have ended."""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from bench.documents import Event
from bench.kernels.relay import GRACE
from bench.outside.lane import Order
from bench.outside.lanes import Told, early
from bench.outside.worker import BEGUN, ENDED, EVENT, is_message, work
from dataplanes.errors import BenchError, Prerequisite, TimedOut

_ALONE = 60.0
"""The command ends after so many seconds without any worker."""
_LOOK = 0.1
"""The interval, in seconds, between two looks for work that has ended."""
_COUNT = 2.0
"""The interval, in seconds, between two looks for workers."""
_decoder = msgspec.json.Decoder(Event)


class Assignment(Struct, frozen=True):
    """Orders for one worker, and their name in messages. `worker` is the address of the one that must do it, if any."""

    name: str
    kernel: str
    orders: tuple[Order, ...]
    worker: str = ""


class Dealing:
    """Gives assignments to the workers of a dask client, and takes their messages."""

    def __init__(
        self,
        client: Any,
        assignments: Sequence[Assignment],
        take: Told,
        deadline: float | None,
        most: int | None = None,
    ) -> None:
        """`deadline` is a monotonic time. `most` assignments are with workers at the same time; all, if it is None."""
        self._client = client
        self._waiting = list(assignments)
        self._take = take
        self._deadline = deadline
        self._most = most or len(assignments)
        # A scheduler forgets the events under a client's own name an hour after the client has gone.
        self._topic: str = client.id
        self._messages: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()
        self._futures: dict[str, Any] = {}
        self._assigned: dict[str, Assignment] = {}
        self._at: dict[str, str] = {}  # the worker that has begun it and not ended it
        self._counted = self._populated = time.monotonic()

    def run(self) -> None:
        """Return when all has ended. An error, the time limit or an interrupt ends all of it, and is then raised."""
        self._client.subscribe_topic(self._topic, self._messages.put)
        try:
            while self._waiting or self._futures:
                while self._waiting and len(self._futures) < self._most:
                    self._submit(self._waiting.pop(0))
                self._proceed()
        finally:
            self._end()
            self._client.unsubscribe_topic(self._topic)

    def _submit(self, given: Assignment) -> None:
        orders = [msgspec.json.encode(order) for order in given.orders]
        future = self._client.submit(work, orders, self._topic, workers=given.worker or None, pure=False)
        self._futures[future.key] = future
        self._assigned[future.key] = given

    def _proceed(self) -> None:
        """Serve the messages that have come, and settle the assignments that had ended before: messages come first."""
        ended = [key for key, future in self._futures.items() if future.done()]
        for key, kind, worker, line in self._told(0 if ended else _LOOK):
            self._serve(key, kind, worker, line)
        for key in ended:
            self._settle(self._assigned[key], self._futures.pop(key))
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimedOut("time is up", where="the cluster", why="the limit that was given has passed")
        self._count()

    def _told(self, wait: float) -> Iterator[tuple[str, str, str, bytes]]:
        """Yield the messages that have come, or wait so many seconds for one."""
        try:
            while True:
                _, message = self._messages.get(wait > 0, wait)
                wait = 0
                if is_message(message):
                    yield message
        except queue.Empty:
            return

    def _serve(self, key: str, kind: str, worker: str, line: bytes) -> None:
        self._note(key, kind, worker)
        if kind == EVENT and key in self._assigned:
            event = _decoder.decode(line)
            if event.kind == "error":
                error = event.error()
                error.where = f"worker {worker}" + (f", {error.where}" if error.where else "")
                raise error
            self._take(self._assigned[key].kernel, event)

    def _note(self, key: str, kind: str, worker: str) -> None:
        if kind == BEGUN:
            if before := self._at.get(key):
                name = self._assigned[key].name
                print(f"bench: worker {before} is lost, and worker {worker} goes on with {name}", file=sys.stderr)
            self._at[key] = worker
        elif kind == ENDED:
            self._at.pop(key, None)

    def _settle(self, given: Assignment, future: Any) -> None:
        if future.status == "finished":
            if code := future.result():
                raise early(given.name, code)
        elif future.status == "error":
            raise _failed(given.name, future.exception())
        else:
            raise _gone(given.name)

    def _count(self) -> None:
        """Look for the workers at intervals. Raise Prerequisite when there has been none for a while."""
        now = time.monotonic()
        if now - self._counted < _COUNT:
            return
        self._counted = now
        workers = self._workers()
        if workers:
            self._populated = now
        elif now - self._populated > _ALONE:
            fix = "start one, and give the same command again: with -o it goes on where it was"
            raise Prerequisite("no worker is left", where="the cluster", fix=fix)
        for key in list(self._futures):
            if (own := self._assigned[key].worker) and own not in workers:  # no other worker may do it
                self._futures.pop(key).cancel()

    def _workers(self) -> set[str]:
        try:
            return set(self._client.nthreads())
        except (OSError, RuntimeError) as error:
            raise _gone("the cluster") from error

    def _end(self) -> None:
        """Cancel what has not ended, and wait until its guests have ended, unless their workers are lost."""
        if not self._futures:
            return
        deadline = time.monotonic() + GRACE
        with suppress(OSError, RuntimeError, BenchError):
            self._client.cancel(list(self._futures.values()))
            while self._at and time.monotonic() < deadline:
                for key, kind, worker, _ in self._told(_COUNT):
                    self._note(key, kind, worker)
                workers = self._workers()
                self._at = {key: worker for key, worker in self._at.items() if worker in workers}


def _gone(where: str) -> BenchError:
    return BenchError("the scheduler has gone", where=where, why="it was ended, or the connection to it is lost")


def _failed(where: str, error: BaseException | None) -> BenchError:
    """Return the error of an assignment that raised one."""
    if isinstance(error, BenchError):
        return error
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return BenchError("every worker that took it is lost", where=where, why=str(error).partition(". ")[0])
    return BenchError(
        "a worker could not do it", where=where, why=f"{type(error).__name__}: {error}".partition("\n")[0]
    )
