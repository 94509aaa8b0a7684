"""The packets of the checks of a matrix, followed in the lab in which they are observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from msgspec.structs import replace

from bench.documents import Event
from bench.documents.tracing import Followed
from bench.inside import tracing
from dataplanes import follower
from dataplanes.follower import Follower
from scenarios.checks import Cell
from scenarios.lab import Lab


class Traces:
    """A follower of the flows to the VIPs of every service in the present lab, and what becomes of its sightings."""

    def __init__(self, tell: Callable[[Event], None], clock: str) -> None:
        """Read the kernel's types. By the instruction clock what the ways cost is told.

        Raises Prerequisite on a kernel that does not describe its types.
        """
        self._clock = clock
        self._types = follower.of_this_kernel()
        self._tell = tell
        self._present: tuple[Lab, Follower] | None = None

    @contextmanager
    def attached(self, lab: Lab) -> Iterator[None]:
        """Follow packets in a lab for the block."""
        with tracing.following(lab, self._types, self._clock) as made:
            self._present = lab, made
            try:
                yield
            finally:
                self._present = None

    def begin(self) -> None:
        """Forget what was seen. The flows that begin from now on are the next check's."""
        assert self._present
        lab, made = self._present
        made.watch(vips=[each.vip for each in lab.services()])

    def tell(self, cell: Cell) -> None:
        """Tell the flows that a check has begun, with what it saw."""
        data = {"dataplane": cell.dataplane, "check": cell.check, "flow": msgspec.to_builtins(self.followed(cell))}
        self._tell(Event("flow", data=data))

    def followed(self, cell: Cell) -> Followed:
        """Return the flows that a check has begun, with what it saw."""
        assert self._present
        lab, made = self._present
        traffic, saw = lab.scenario.traffic, f"{cell.outcome}: {cell.detail}"
        address, vip = tracing.ends(lab, traffic.client, traffic.service, by_vip=True)
        flow = Followed(cell.dataplane, traffic.client, address, traffic.service, vip, "tcp", saw, answered=True)
        flow = replace(flow, command=[cell.check], vips=[each.vip for each in lab.services()])
        return tracing.seen(lab, made, flow, "close")
