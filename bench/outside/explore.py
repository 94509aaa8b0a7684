"""The command `bench explore`: planes are explored one after another, and the sequences that failed are kept.

The kernel under test tells each shorter sequence when it is found. So when the time is up, or somebody ends it, the
shortest one so far is known. Failures are kept in the cache: the next exploration of the plane begins with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.documents import Event, Job
from bench.documents.exploration import Exploration, Explored, Exploring, Finding
from bench.kernels import Kernel
from bench.outside import provenance
from bench.outside.dispatch import dispatch
from dataplanes import files
from dataplanes.errors import BenchError, Prerequisite, TimedOut, Unsupported, Usage
from dataplanes.paths import cache
from dataplanes.selection import Selection
from scenarios.explore.operations import Operations
from scenarios.explore.player import SCENARIO

_MOST_KEPT = 100
"""The largest number of failures that are kept of one plane. The oldest go first."""
_MOST_BYTES = 32 << 20
_LONGEST = 24 * 3600


def exploration(path: str) -> Exploration:
    """Read what `bench explore -o` wrote. Raises Usage if the file is something else."""
    fix = "give what `bench explore -o` wrote"
    return files.decode(files.content(path, _MOST_BYTES), Exploration, path, wrong="not an exploration", fix=fix)


class Explorer:
    """An exploration of planes on one kernel. Its document tells what was done, also when it was cut short."""

    def __init__(self, selections: Sequence[Selection], kernel: Kernel, reason: str, plan: dict[str, Any]) -> None:
        """Create the exploration. `plan` is the request as the document tells it."""
        self._selections, self._kernel, self._reason, self._plan = selections, kernel, reason, plan
        self._environment: dict[str, Any] = {}
        self._explored: dict[str, Explored] = {}
        self._findings: list[Finding] = []

    def explore(
        self, seed: int, operations: int | None, seconds: float | None, on_event: Callable[[Event], None]
    ) -> None:
        """Explore each plane: first what failed before, and then at random, for so many operations and seconds."""
        for selection in self._selections:
            kept = list(_kept(selection.name))
            try:
                with suppress(TimedOut):
                    self._explore(selection, Exploring(seed, operations, kept), seconds, on_event)
            finally:
                _keep([each for each in self.findings() if each.dataplane == selection.name])

    def replay(self, sequences: Sequence[Operations], on_event: Callable[[Event], None]) -> None:
        """Play sequences on each plane."""
        for selection in self._selections:
            for sequence in sequences:
                self._explore(selection, Exploring(0, 0, [sequence]), None, on_event)

    def _explore(
        self, selection: Selection, order: Exploring, seconds: float | None, on_event: Callable[[Event], None]
    ) -> None:
        last: dict[str, Any] = {}  # what the kernel told last: each event of a kind replaces the one before

        def take(event: Event) -> None:
            if event.kind == "finding" and event.data["times"]:  # none shorter comes, but perhaps one of its own
                last.pop("finding", None)
                self._findings.append(msgspec.convert(event.data, Finding))
            else:
                last[event.kind] = event.data
            on_event(event)

        job = Job("explore", SCENARIO, [selection], exploring=msgspec.to_builtins(order))
        try:
            code = dispatch(job, self._kernel, timeout=seconds, on_event=take)
        except Unsupported as error:
            self._explored[selection.name] = Explored(selection.name, skipped=error.why)
            return
        finally:
            self._note(last)
        if code:
            raise BenchError("the exploration ended early", where=selection.name, why=f"exit code {code}")

    def _note(self, last: dict[str, Any]) -> None:
        """Take note of what a kernel told last, also if its work was cut short."""
        self._environment = last.get("environment", self._environment)
        if "explored" in last:
            more = msgspec.convert(last["explored"], Explored)
            known = self._explored.setdefault(more.dataplane, Explored(more.dataplane))
            known.operations += more.operations
            known.sequences += more.sequences
            known.disturbed += more.disturbed
            known.disturbance = more.disturbance or known.disturbance
        if "finding" in last:
            self._findings.append(msgspec.convert(last["finding"], Finding))

    def findings(self) -> list[Finding]:
        """Return what was not as expected so far: of each search the shortest sequence, and each one played again."""
        return [each for each in self._findings if each.failed]

    def document(self) -> Exploration:
        """Return the document of what was done so far."""
        facts = provenance.kernel(self._kernel, self._reason)
        return Exploration(
            tool=provenance.tool(),
            environment=self._environment | facts,
            plan=self._plan | {"dataplanes": provenance.planes(self._selections), "command": provenance.command()},
            explored=list(self._explored.values()),
            findings=self.findings(),
        )


def _place(dataplane: str) -> Path:
    return cache() / "explored" / hashlib.sha256(dataplane.encode()).hexdigest()[:12]


def _kept(dataplane: str) -> Iterator[Operations]:
    """Yield the sequences that failed on a plane before, the last one first."""
    with suppress(OSError):
        for path in sorted(_place(dataplane).iterdir(), key=lambda each: each.stat().st_mtime, reverse=True):
            if found := files.kept(path, Operations):
                yield found


def _keep(findings: Sequence[Finding]) -> None:
    """Keep the sequences that failed. Failing to keep one is no error."""
    for finding in findings:
        data = msgspec.json.format(msgspec.json.encode(finding.operations), indent=1)
        place = _place(finding.dataplane)
        with suppress(Prerequisite, OSError):
            files.keep(place / f"{hashlib.sha256(data).hexdigest()[:12]}.json", data)
            oldest = sorted(place.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)[_MOST_KEPT:]
            for path in oldest:
                path.unlink()


def duration(text: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 10m or 1h. Raises Usage."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    if not number.isascii() or not number.isdigit() or not 1 <= int(number[:9]) * units[unit] <= _LONGEST:
        raise Usage(
            f"not a duration: {text!r:.40}", fix="a number of seconds, minutes or hours: 90s, 10m, 1h; at most 24h"
        )
    return float(int(number) * units[unit])
