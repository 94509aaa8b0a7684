"""A lane that plays: it tells of each trial of its order at once, and measures nothing.

In the directory of its first argument it writes down that it was `asked` to end. There a file `fails` has it fail, and
while a file `waits` is there it waits after its first trial.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from bench.documents import Event, Trial, TrialPlan
from bench.outside.lane import Order
from dataplanes.errors import KernelRefused

DIRECTORY = Path(sys.argv[1])


def tell(event: Event) -> None:
    os.write(1, msgspec.json.encode(event) + b"\n")


def ended(plan: TrialPlan) -> Event:
    trial = Trial(plan.dataplane, "seed", plan.workload, plan.round, plan.warmup, {}, axes=plan.axes)
    return Event("trial", data=msgspec.to_builtins(trial))


def asked(number: int, frame: object) -> NoReturn:
    (DIRECTORY / f"asked-{os.getpid()}").touch()
    sys.exit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, asked)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    if order.rehearsal:
        return 0
    tell(Event("environment", data={"machines": [{"host": "here"}]}))
    for plan in order.job.trials:
        tell(ended(plan))
        if (DIRECTORY / "fails").exists():
            tell(Event.of(KernelRefused("refused", where=plan.dataplane)))
            return 1
        while (DIRECTORY / "waits").exists():
            time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main())
