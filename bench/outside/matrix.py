"""The command `bench matrix`: every check on every plane and kernel, with the outcome and the expected outcome."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.analysis.story import story
from bench.documents import Event, Job, Matrix, MatrixCell
from bench.documents.tracing import Followed
from bench.kernels import Kernel
from bench.outside import provenance
from bench.outside.lanes import Lanes, Share, Told
from bench.report.story import lines
from dataplanes import files
from dataplanes.errors import Usage
from dataplanes.selection import Selection, balances
from scenarios import casting, topology
from scenarios.checks import Check


def planes(selections: Sequence[Selection]) -> list[Selection]:
    """Return the planes that have a VIP. Raises Usage if none is left."""
    found = [each for each in selections if balances(each.dataplane)]
    if not found:
        raise Usage("nothing to observe", where=selections[0].name, why="it has no VIP", fix="name another data plane")
    return found


def run(
    selections: Sequence[Selection],
    checks: Sequence[Check],
    kernels: Sequence[tuple[Kernel, str]],
    *,
    evidence: Path | None,
    traces: Path | None = None,
    pause: bool,
    timeout: float | None,
    lanes: Lanes,
    on_event: Told,
    scenario: str = "",
) -> Matrix:
    """Observe every cell.

    Kernels run side by side, in guests of `lanes`. A `scenario` stands in the place of the checks' own. Raises the
    errors of the kernels under test.
    """
    heard = _Heard(evidence, traces, on_event)
    names = [each.name for each in selections]

    def job(planes: Sequence[Selection], wanted: Sequence[Check]) -> Job:
        kept = evidence is not None
        observed = [each.name for each in wanted]
        made = Job("matrix", selections=list(planes), checks=observed, own=scenario, pause=pause, evidence=kept)
        made.traced = traces is not None
        return made

    def dealt(kernel: Kernel) -> list[Job]:
        if pause:
            return [job(selections, checks)]
        room = lanes.count(kernel, len(selections) * len(checks), len(kernels), timed=False)
        if room < 2 * len(selections):
            return [job(part, checks) for part in lanes.deal(kernel, selections, len(kernels), timed=False)]
        return [job([each], part) for each in selections for part in parts(checks, room // len(selections))]

    shares = [Share(kernel, each, tty=pause and sys.stdin.isatty()) for kernel, _ in kernels for each in dealt(kernel)]
    lanes.run(shares, heard.take, timeout)
    environments = {
        kernel.name: heard.environments[kernel.name] | provenance.kernel(kernel, reason) for kernel, reason in kernels
    }
    order = {each.name: number for number, each in enumerate(checks)}
    heard.cells.sort(key=lambda cell: (cell.kernel, names.index(cell.dataplane), order[cell.check]))
    return Matrix(
        tool=provenance.tool(),
        environment=environments,
        plan={
            "dataplanes": provenance.planes(selections),
            "checks": provenance.checks(checks),
            "command": provenance.command(),
            "scenario": os.path.basename(scenario).removesuffix(".toml"),
            "cast": casting.cast(topology.load(scenario)).names if scenario else {},
        },
        cells=heard.cells,
    )


class _Heard:
    """What guests have told: cells, the facts about their kernels, and files of evidence and traces."""

    def __init__(self, evidence: Path | None, traces: Path | None, on_event: Told) -> None:
        self.cells: list[MatrixCell] = []
        self.environments: dict[str, Any] = {}
        self._evidence, self._traces, self._on_event = evidence, traces, on_event
        self._stories: dict[str, str] = {}  # of cells, each of which comes before its cell

    def take(self, kernel: str, event: Event) -> None:
        """Take an event of a kernel's."""
        if event.kind == "cell":
            cell = msgspec.convert({"kernel": kernel} | event.data, MatrixCell)
            if (text := self._stories.pop(_named(kernel, event.data), "")) and cell.outcome != cell.expected:
                cell.trace = text
            self.cells.append(cell)
        elif event.kind == "environment":
            self.environments[kernel] = provenance.merged(self.environments.get(kernel, {}), event.data)
        elif event.kind == "evidence" and self._evidence:
            _keep(self._evidence, kernel, event.data)
            if "flow" in event.data:
                self._add(kernel, event.data)
        elif event.kind == "flow" and self._traces:
            name, text = _named(kernel, event.data), _told(event.data)
            files.write(self._traces / f"{name}.txt", text.encode())
            self._stories[name] = text
        self._on_event(kernel, event)

    def _add(self, kernel: str, data: dict[str, Any]) -> None:
        """Add the story of its packets to a cell that came before its evidence."""
        for cell in self.cells:
            if (cell.kernel, cell.dataplane, cell.check) == (kernel, data["dataplane"], data["check"]):
                cell.trace = _told(data)


def parts(checks: Sequence[Check], count: int) -> list[list[Check]]:
    """Deal the checks of one plane to at most `count` guests that would have nothing else to do.

    Checks with a world of their own stay together, because each guest makes every world that its checks need. So do
    those that idle, which wait all at the same time.
    """
    usual = Counter(each.scenario for each in checks).most_common(1)[0][0]
    units: dict[tuple[str, str], list[Check]] = {}
    for each in checks:
        alone = each.scenario == usual and not each.idles
        units.setdefault((each.scenario, each.name if alone else "together"), []).append(each)
    dealt = [[*units.values()][part::count] for part in range(min(count, len(units)))]
    return [[each for unit in part for each in unit] for part in dealt]


def unexpected(matrix: Matrix) -> list[MatrixCell]:
    """Return the cells that are not as expected."""
    return [cell for cell in matrix.cells if cell.outcome != cell.expected]


def _named(kernel: str, data: dict[str, Any]) -> str:
    """Return the name of a cell's files."""
    return re.sub(r"[^\w.@+=-]", "_", f"{kernel}_{data['dataplane']}_{data['check']}")


def _told(data: dict[str, Any]) -> str:
    """Return the story of a cell's packets."""
    return "\n".join([*lines(story(msgspec.convert(data["flow"], Followed))), ""])


def _keep(directory: Path, kernel: str, data: dict[str, Any]) -> None:
    """Write the walk through the lab, the packets and their story, of a cell that was not as expected."""
    place = directory / _named(kernel, data)
    files.write(place / "again.txt", f"{data['again']}\n".encode())
    if "inspect" in data:
        files.write(place / "inspect.txt", f"{data['inspect']}\n".encode())
    if "flow" in data:
        files.write(place / "trace.txt", _told(data).encode())
    elif "unfollowed" in data:
        files.write(place / "trace.txt", f"{data['unfollowed']}\n".encode())
    for name, packets in data.get("packets", {}).items():
        files.write(place / f"{os.path.basename(name)}.pcap", base64.b64decode(packets))
