"""The work of a worker of a cluster: it carries out a share in a lane, and sends the events to the command.

A dask worker calls `work` in one of its threads. The lane is a process (`bench/outside/lane.py`) and ends with the
worker, even by kill -9. dask cannot end a thread, so the thread checks that its work is still wanted.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from bench.documents import Event, Job, Trial
from bench.documents.agreement import Agreement, figure
from bench.kernels.relay import GRACE, Lines
from bench.outside.lane import Order, running

BEGUN, EVENT, ENDED = "begun", "event", "ended"
"""The kinds of messages. A message is (the key of the dask task, its kind, the address of the worker, JSON)."""
_LOOK = 0.5
"""The interval, in seconds, between two checks that the work is still wanted."""
_decoder = msgspec.json.Decoder(Event)


def work(orders: Sequence[bytes], topic: str) -> int:
    """Carry out orders one after another, and log their events under a topic. Returns the first exit code but 0.

    dask gives the work of a lost worker to another one, which does not do again what that one has told.
    """
    from distributed import Reschedule, get_worker
    from distributed.utils import sync

    worker = get_worker()
    wanted = _wanted(worker)
    code = 0
    try:
        before = sync(worker.loop, worker.scheduler.events, topic=topic)  # a client of its own would do no more
        code = _Telling(worker, topic, before).carry_out(orders, wanted)
    except Exception:
        if wanted():
            raise
    if not wanted():
        raise Reschedule  # the scheduler gives it to another worker, unless the command does not want it
    return code


class _Telling:
    """Sends the messages of one task. Another worker may have sent some of them before it was lost."""

    def __init__(self, worker: Any, topic: str, before: Sequence[tuple[float, Any]]) -> None:
        self._worker = worker
        self._topic = topic
        self._own = worker.get_current_task()
        messages = [msg for _, msg in before if is_message(msg)]
        told = [_decoder.decode(line) for key, kind, _, line in messages if key == self._own and kind == EVENT]
        self._trials = [msgspec.convert(event.data, Trial) for event in told if event.kind == "trial"]
        self._cells = {(event.data["dataplane"], event.data["check"]) for event in told if event.kind == "cell"}

    def carry_out(self, orders: Sequence[bytes], wanted: Callable[[], bool]) -> int:
        self._tell(BEGUN)
        try:
            for each in orders:
                order = msgspec.json.decode(each, type=Order)
                order = msgspec.structs.replace(order, job=left(order.job, self._trials, self._cells))
                if code := _carry_out(order, partial(self._tell, EVENT), wanted):
                    return code
            return 0
        finally:
            self._tell(ENDED)

    def _tell(self, kind: str, line: bytes = b"") -> None:
        self._worker.log_event(self._topic, (self._own, kind, self._worker.address, line))


def is_message(msg: object) -> bool:
    """Return True for a message of `work`. The scheduler logs events of its own under a client's topic."""
    return isinstance(msg, (tuple, list)) and len(msg) == 4


def left(job: Job, done: Sequence[Trial], cells: Collection[tuple[str, str]] = ()) -> Job:
    """Return what is left of one plane's job when these trials and cells, (data plane, check), have been told of.

    The job may come to a cold guest in the middle: there the first round of nft-lb costs 0.04 % less, and rounds differ
    by 0.1 %.
    """
    known = {trial.key() for trial in done}
    trials = [trial for trial in job.trials if trial.key() not in known]
    checks = [name for name in job.checks if (job.selections[0].name, name) not in cells]
    measured = [*job.rounds, *(figure(trial) for trial in done if not trial.warmup)]
    trials = Agreement(job.goal, measured).needed(trials)
    return msgspec.structs.replace(job, trials=trials, checks=checks, rounds=measured)


def _carry_out(order: Order, take: Callable[[bytes], None], wanted: Callable[[], bool]) -> int:
    if not (order.job.trials or order.job.checks or order.rehearsal):
        return 0
    with running(order) as process:
        lines = Lines(take)
        for data in _output(process, wanted):
            lines.feed(data)
        return process.wait(GRACE)


def _output(process: subprocess.Popen[bytes], wanted: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the output of a lane until it ends. Ask it to end when its work is not wanted any more."""
    assert process.stdout
    asked: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while asked is None or time.monotonic() - asked < GRACE:
            if asked is None and not wanted():
                process.terminate()
                asked = time.monotonic()
            if selector.select(_LOOK):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return
                yield data
    process.kill()


def _wanted(worker: Any) -> Callable[[], bool]:
    """Return a function that tells whether the command still wants this thread's work.

    When it cancels the work, or has gone, the scheduler releases the task, and its state on the worker is `cancelled`
    for as long as its thread goes on (distributed, worker_state_machine.py, _transition_executing_released).
    """
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing" and worker.status.name in ("running", "paused")

    return wanted
