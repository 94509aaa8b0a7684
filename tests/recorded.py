"""Kernels for tests of what runs outside: one that writes down what a real kernel told, and one that tells it again.

Both stand at the one interface between the outside and the inside, `bench.kernels.Kernel`: a command that holds a job
goes in, events come out. What is recorded is data in tests/recordings, one file for each of COMMANDS.

    python -m tests.recorded DIRECTORY [NAME...]

runs the commands on the real kernel, and writes what it told to DIRECTORY. A program test does the same and compares.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from msgspec import Struct

from bench import kernels
from bench.documents import Event, Job, Trial
from bench.documents.agreement import Agreement, figure
from bench.kernels import Command, Kernel
from bench.outside import explore
from bench.prepare.ready import requirements
from dataplanes import catalog
from dataplanes.requirements import Feature
from tests.conftest import ROOT

RECORDINGS = ROOT / "tests" / "recordings"
_ON = ("--kernel", "debian-6.12", "--jobs", "1")
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "run": ("run", "-d", "nft-lb,ipvs-lb", "--repeat", "3", "--connections", "200", "--clock", "instructions", *_ON),
    "matrix": (
        *("matrix", "-d", "nft-lb,ipvs-container", "--clock", "wall", *_ON),
        *("-k", "reach.other-node or identity.source-other-node or idle.tcp-1000s"),
    ),
    "inspect": ("inspect", "-d", "nft-lb", "--kernel", "debian-6.12", "--json"),
    "explore": (
        "explore",
        "-d",
        "nft-lb",
        "--steps",
        "40",
        "--seed",
        "1",
        "--clock",
        "wall",
        "--kernel",
        "debian-6.12",
    ),
    "lab": ("lab", "-d", "direct", "--kernel", "debian-6.12", "--", "sh", "-c", "exit 42"),
}
RUN = (
    *("run", "-d", "nft-lb", "--kernel", "debian-6.12", "--clock", "instructions"),
    *("--repeat", "3", "--connections", "200", "--jobs", "1"),
)
MATRIX = ("matrix", "-d", "nft-lb", "--kernel", "debian-6.12", "--clock", "wall", "-k", "other-node")
"""Commands that are in the recordings: they ask for some of the trials, and for some of the cells."""


class Facts(Struct, frozen=True):
    """What a kernel tells about itself: of its configuration and modules, what a data plane needs."""

    name: str
    release: str
    clock: str
    emulator: str
    accelerated: bool
    config: dict[str, str]
    modules: list[str]


class Recording(Struct, frozen=True):
    """A job, and what a kernel told while it was done."""

    command: list[str]
    kernel: Facts
    job: Job
    code: int
    events: list[Event] = []

    def trials(self) -> list[Trial]:
        """Return the trials that the events tell of."""
        return [msgspec.convert(event.data, Trial) for event in self.events if event.kind == "trial"]

    def lines(self) -> bytes:
        """Return the recording as its file has it: a line of JSON that says of what it is, then one for each event."""
        head = msgspec.structs.replace(self, events=[])
        return b"".join(msgspec.json.encode(each) + b"\n" for each in (head, *self.events))


def read(name: str) -> Recording:
    """Read the recording of one of COMMANDS."""
    head, *events = (RECORDINGS / f"{name}.jsonl").read_bytes().splitlines()
    found = msgspec.json.decode(head, type=Recording)
    found.events.extend(msgspec.json.decode(line, type=Event) for line in events)
    return found


class Recorder(Kernel):
    """A real kernel, whose jobs are written down."""

    def __init__(self, kernel: Kernel, keep: Callable[[Facts, Job, list[Event], int], None]) -> None:
        self._kernel, self._keep = kernel, keep
        self.name, self.release, self.clock = kernel.name, kernel.release, kernel.clock
        self.emulator, self.accelerated = kernel.emulator, kernel.accelerated

    def config(self) -> Mapping[str, str] | None:
        return self._kernel.config()

    def fingerprint(self) -> str:
        return self._kernel.fingerprint()

    def has_module(self, name: str) -> bool:
        return self._kernel.has_module(name)

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        events: list[Event] = []

        def take(line: bytes) -> None:
            events.append(msgspec.json.decode(line, type=Event))
            on_event(line)

        code = self._kernel.execute(command, take)
        if (job := _job(command)) is not None:
            self._keep(self._facts(), job, events, code)
        return code

    def _facts(self) -> Facts:
        features = [each for each in requirements(catalog.select("all")) if isinstance(each, Feature)]
        symbols = {f"CONFIG_{each.config}" for each in features}
        config = {name: value for name, value in (self.config() or {}).items() if name in symbols}
        modules = sorted({each.module for each in features if self.has_module(each.module)})
        return Facts(self.name, self.release, self.clock, self.emulator, self.accelerated, config, modules)


def _job(command: Command) -> Job | None:
    """The job of a command; None if it is a compiler's."""
    return msgspec.json.decode(command.input, type=Job) if "inside" in command.argv else None


class Replay(Kernel):
    """A kernel that was recorded. It does any job whose trials, cells or plane are in the recordings.

    A test says what goes wrong. `then` is done as soon as `after` trials or cells were told. `edit` changes events.
    `code` is another exit code than the recorded one.
    """

    def __init__(
        self,
        *recordings: Recording,
        after: int = -1,
        then: Callable[[], object] = lambda: None,
        edit: Callable[[Event], Event] = lambda event: event,
        code: int | None = None,
    ) -> None:
        facts = recordings[0].kernel
        self.name, self.release, self.clock = facts.name, facts.release, facts.clock
        self.emulator, self.accelerated = facts.emulator, facts.accelerated
        self._facts, self._recordings = facts, recordings
        self._after, self._then, self._edit, self._code = after, then, edit, code
        self.jobs: list[Job] = []
        self.readers: list[str] = []  # the kinds of the jobs that were given this process's stdin

    def config(self) -> Mapping[str, str] | None:
        return self._facts.config

    def fingerprint(self) -> str:
        return self.release

    def has_module(self, name: str) -> bool:
        return name in self._facts.modules

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        job = _job(command)
        assert job is not None, f"no job: {command.argv}"
        self.jobs.append(job)
        self.readers += [job.kind] if command.stdin else []
        recording = next(each for each in self._recordings if each.job.kind == job.kind)
        told = 0
        for event in _answer(recording, job, self._edit):
            on_event(msgspec.json.encode(event))
            told += event.kind in ("trial", "cell")
            if told == self._after:
                self._then()
        return recording.code if self._code is None else self._code


def replay(**more: Any) -> Replay:
    """Return the recorded kernel; `more` as Replay takes it."""
    return Replay(*map(read, COMMANDS), **more)


def _answer(recording: Recording, job: Job, edit: Callable[[Event], Event]) -> Iterator[Event]:
    """The events of a recording that tell of a job, in the order in which they were told, and edited."""
    edited = [(key(event), edit(event)) for event in recording.events]
    names = [plane.name for plane in job.selections]
    told = {each for each, _ in edited}
    wanted: set[object]
    if job.kind == "trials":
        wanted = {"environment", *_done(dict(edited), job)}
    elif job.kind == "matrix":
        cells = {(plane, check) for plane in names for check in job.checks}
        wanted = {"environment", *cells, *(told & {(*cell, kind) for cell in cells for kind in ("evidence", "flow")})}
    else:
        wanted = told if job.selections == recording.job.selections else {(job.kind, *names)}
    assert wanted <= told, f"not recorded: {wanted - told}; there are {told}"
    yield from (event for each, event in edited if each in wanted)


def _done(told: Mapping[object, Event], job: Job) -> Iterator[object]:
    """The trials of a job that a kernel does: not those of a series whose rounds agree."""
    agreement = Agreement(job.goal, job.rounds)
    for plan in job.trials:
        if not agreement.reached(plan):
            yield plan.key()
            if (event := told.get(plan.key())) and event.kind == "trial":
                agreement.add(figure(msgspec.convert(event.data, Trial)))


def key(event: Event) -> object:
    """Return what an event is about: one of a kind in a job."""
    if event.kind == "trial":
        return msgspec.convert(event.data, Trial).key()
    if event.kind == "cell":
        return event.data["dataplane"], event.data["check"]
    if event.kind == "evidence" or (event.kind == "flow" and "check" in event.data):
        return event.data["dataplane"], event.data["check"], event.kind
    return event.kind


def record(command: Sequence[str]) -> Recording:
    """Run a command as the program does, and return what its kernel told."""
    from bench.cli.main import main as program

    found: list[Recording] = []

    def keep(facts: Facts, job: Job, events: list[Event], code: int) -> None:
        found.append(Recording(list(command), facts, job, code, events))

    resolve = kernels.resolve
    recorded = patch.object(kernels, "resolve", lambda name, clock: Recorder(resolve(name, clock), keep))
    forgetful = patch.object(explore, "_kept", lambda dataplane: iter(()))  # what failed here before is no one's job
    with recorded, forgetful, suppress(SystemExit):
        program(list(command), prog_name="bench")
    (recording,) = found
    return recording


def main(directory: Path, names: Sequence[str]) -> None:
    """Record commands, all if none is named."""
    for name in names or COMMANDS:
        (directory / f"{name}.jsonl").write_bytes(record(COMMANDS[name]).lines())


if __name__ == "__main__":
    os.chdir(ROOT)
    main(Path(sys.argv[1]), sys.argv[2:])
