"""The trials of a run on disk, in FILE.trials beside FILE, so that a run that is cut short goes on where it was.

Each line is JSON: first the identity of the run, then every event that is kept. A file of another run is begun anew. So
is one that an earlier version of the program wrote, because no run has trials of two programs.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.documents import SCHEMA, Event, Trial, TrialPlan, reading
from bench.outside import provenance
from dataplanes import files

_MOST = 256 << 20
_WRONG = "not a line of this run's trials"
_FIX = "remove the file, and the run begins anew"


class _FirstLine(msgspec.Struct, tag_field="kind", tag="trials"):
    """The first line: the schema of the lines, and the facts that lines of this run have in common."""

    run: Any
    schema: int = SCHEMA


def _whose(first: bytes) -> str:
    """Return what a file is whose first line is not this run's."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = msgspec.json.decode(first, type=_FirstLine | list[Any])  # schema 1 had a list, without a name
        if isinstance(found, list) or found.schema != SCHEMA:
            return "from another version of the program, whose trials are no part of this run"
    return "of another run, program or kernel"


class Store:
    """The trials of one run. Without a path they are only in memory."""

    def __init__(self, path: Path | None, identity: object) -> None:
        """Create the store.

        `identity` is what a file of this run must agree with; it can be anything that JSON can hold.
        """
        self.trials: list[Trial] = []
        self.environment: dict[str, Any] = {}
        self._clock = ""
        self.replaced = ""  # what the earlier file was, if it was not this run's
        self._path = path
        first = msgspec.json.encode(_FirstLine(identity))
        if path is None:
            return
        kept = self._resume(path, first)
        try:
            self._file = path.open("ab" if kept else "wb", buffering=0)
            if not kept:
                self._append(first)
        except OSError as error:
            raise files.cannot_write(path, error, "the trials") from error

    def _resume(self, path: Path, first: bytes) -> bool:
        """Read the file if it is this run's. A last line that was cut off is removed."""
        if not path.exists():
            return False
        data = files.content(path, _MOST)
        head, _, rest = data.partition(b"\n")
        if head != first:
            self.replaced = _whose(head) if data else ""
            return False
        whole = rest[: rest.rfind(b"\n") + 1]
        try:
            with path.open("r+b") as file:
                file.truncate(len(head) + 1 + len(whole))
        except OSError as error:
            raise files.cannot_write(path, error, "the trials") from error
        for number, line in enumerate(whole.splitlines(), 2):
            where = f"{path}:{number}"
            self._take(files.decode(line, Event, where, wrong=_WRONG, fix=_FIX), where)
        return True

    def _take(self, event: Event, where: str) -> bool:
        if event.kind == "trial":
            trial = files.convert(event.data, Trial, where, wrong=_WRONG, fix=_FIX)
            reading.validate_trial(trial, self._clock, where)
            self.trials.append(trial)
        elif event.kind == "environment":
            self._clock = reading.validate_environment(event.data, where).clock
            self.environment = provenance.merged(self.environment, event.data)
        return event.kind in ("trial", "environment")

    def add(self, event: Event) -> None:
        """Keep an event, if it is of a kind that is kept.

        Raises Prerequisite if the disk is full; earlier events stay.
        """
        if self._take(event, "the kernel under test") and self._path:
            try:
                self._append(msgspec.json.encode(event))
            except OSError as error:
                raise files.cannot_write(self._path, error, "the trials") from error

    def _append(self, line: bytes) -> None:
        rest = memoryview(line + b"\n")
        while rest:  # a disk that is nearly full takes a part
            rest = rest[self._file.write(rest) :]

    def left(self, plans: list[TrialPlan]) -> list[TrialPlan]:
        """Return the trials that are not done yet."""
        done = {trial.key() for trial in self.trials}
        return [plan for plan in plans if plan.key() not in done]

    def close(self, *, discard: bool) -> None:
        """Close the file. Discard it when the result is written."""
        if self._path:
            self._file.close()
            if discard:
                with suppress(FileNotFoundError):
                    self._path.unlink()
