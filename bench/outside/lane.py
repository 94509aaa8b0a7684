"""The process of a lane: `python -m bench.start lane PARENT`. It does one share of the work on one kernel.

The order is JSON on its stdin. Events go to its stdout, a JSON line each. Signals end it, and it ends with its parent.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from bench import kernels
from bench.documents import Event, Job
from bench.kernels.owned import owned
from bench.outside import provenance
from bench.outside.dispatch import dispatch
from bench.prepare.ready import make_ready
from dataplanes import files
from dataplanes.errors import Prerequisite
from dataplanes.kernel import interrupt
from dataplanes.kernel.process import die_with
from dataplanes.paths import cache

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "bench.start", "lane")
"""The command of a lane. The process number of its parent is the last argument."""


class Elsewhere(Struct, frozen=True):
    """Knowledge that a lane needs on another machine than the command's: that machine's identity, and the scenario."""

    identity: dict[str, str]
    scenario: str = ""


class Order(Struct, frozen=True):
    """The order of a lane. A rehearsal ends before the guest starts."""

    kernel: str
    clock: str
    job: Job
    timeout: float | None = None  # in seconds of real time
    rehearsal: bool = False
    elsewhere: Elsewhere | None = None


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
    die_with(int(sys.argv[1]))

    def tell(event: Event) -> None:
        os.write(1, msgspec.json.encode(event) + b"\n")

    return interrupt.exit_code(
        lambda: _carry_out(msgspec.json.decode(sys.stdin.buffer.read(), type=Order), tell),
        lambda error: tell(Event.of(error)),
    )


def _carry_out(order: Order, tell: Callable[[Event], None]) -> int:
    kernel = kernels.resolve(order.kernel, order.clock if order.kernel != "host" else None)
    job = order.job
    if order.elsewhere:
        make_ready(job.selections, kernel, {trial.workload for trial in job.trials})
        _demand_same(order.elsewhere.identity, provenance.identity(kernel, job.selections), all_of_it=order.rehearsal)
        tell = _with_machine(tell)
        if order.elsewhere.scenario:
            job = msgspec.structs.replace(job, scenario=_file(job.scenario, order.elsewhere.scenario))
    return 0 if order.rehearsal else dispatch(job, kernel, timeout=order.timeout, on_event=tell)


def _demand_same(there: Mapping[str, str], here: Mapping[str, str], *, all_of_it: bool) -> None:
    """Raise Prerequisite unless this machine and the command's have the same identity.

    A share may need only a part of what its command needs.
    """
    differing = [name for name in {**here, **(there if all_of_it else {})} if there.get(name) != here.get(name)]
    if differing:
        told = (
            f"{name} is {here.get(name) or 'missing'} here, and {there.get(name) or 'missing'} there"
            for name in differing
        )
        raise Prerequisite(
            "this machine differs from the one of the command",
            why="; ".join(told),
            fix="have the same revision of the program and the same versions of what it uses on every machine",
        )


def _with_machine(tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return `tell` with this machine's facts in what it tells of the environment."""

    def told(event: Event) -> None:
        if event.kind == "environment":
            event.data["machines"] = [provenance.machine()]
        tell(event)

    return told


def _file(path: str, text: str) -> str:
    """Return the path of a scenario's file on this machine. It is in the cache, which a guest sees."""
    data = text.encode()
    kept = cache() / "scenarios" / hashlib.sha256(data).hexdigest()[:12] / Path(path).name
    files.keep(kept, data)
    return str(kept)
