"""Trials on disk as they end, so that a run that is cut short goes on where it was: FILE.trials beside the result FILE.

A line of JSON each: first what the run is, then every event worth keeping. Another run's file is begun anew.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.documents import Event, Trial, TrialPlan
from dataplanes.errors import Usage

_decoder = msgspec.json.Decoder(Event)


class Store:
    """The trials of one run. With no path they are only in memory."""

    def __init__(self, path: Path | None, identity: object) -> None:
        """`identity`: what must be equal for a file to be of this run; anything that can be JSON."""
        self.trials: list[Trial] = []
        self.environment: dict[str, Any] = {}
        self.replaced = False  # there was a file, of another run
        self._path = path
        first = msgspec.json.encode(identity)
        if path is None:
            return
        kept = self._read(path, first)
        try:
            self._file = path.open("ab" if kept else "wb", buffering=0)
            if not kept:
                self._file.write(first + b"\n")
        except OSError as error:
            raise Usage("cannot keep the trials", where=str(path), why=error.strerror or "") from error

    def _read(self, path: Path, first: bytes) -> bool:
        """Take what is there, if it is this run's; a last line that was cut off is cut away."""
        try:
            data = path.read_bytes()
        except OSError:
            return False
        head, _, rest = data.partition(b"\n")
        if head != first:
            self.replaced = bool(data)
            return False
        whole = rest[: rest.rfind(b"\n") + 1]
        with path.open("r+b") as file:
            file.truncate(len(head) + 1 + len(whole))
        for line in whole.splitlines():
            self._take(_decoder.decode(line))
        return True

    def _take(self, event: Event) -> bool:
        if event.kind == "trial":
            self.trials.append(msgspec.convert(event.data, Trial))
        elif event.kind == "environment":
            self.environment = event.data
        return event.kind in ("trial", "environment")

    def add(self, event: Event) -> None:
        """Keep an event, if it is one to keep."""
        if self._take(event) and self._path:
            self._file.write(msgspec.json.encode(event) + b"\n")

    def left(self, plans: list[TrialPlan]) -> list[TrialPlan]:
        """Those not done yet."""
        done = {trial.key() for trial in self.trials}
        return [plan for plan in plans if plan.key() not in done]

    def close(self, *, discard: bool) -> None:
        """Close the file; discard it when the result is written."""
        if self._path:
            self._file.close()
            if discard:
                with suppress(FileNotFoundError):
                    self._path.unlink()
