"""No load balancer: the reference that every figure is divided by. Clients are given the backends' own addresses.

It is no ceiling: a plane past the bridge costs less (`direct-short` is the limit).
"""

from __future__ import annotations

from collections.abc import Sequence

from dataplanes.base import Attachments, Counter, DataPlane, Footprint
from dataplanes.model import Endpoint, Segment, Service
from dataplanes.requirements import Requirement


class Direct(DataPlane):
    """Programs nothing anywhere."""

    def __init__(self, attachments: Attachments | None = None, name: str = "direct") -> None:
        self.name = name

    def requires(self) -> tuple[Requirement, ...]:
        return ()

    def add_segment(self, segment: Segment) -> None: ...

    def add_endpoint(self, endpoint: Endpoint) -> None: ...

    def remove_endpoint(self, endpoint: Endpoint) -> None: ...

    def apply(self, services: Sequence[Service]) -> None: ...

    def remove(self, services: Sequence[Service]) -> None: ...

    def resync(self) -> None: ...

    def counters(self) -> list[Counter]:
        return []

    def footprint(self) -> list[Footprint]:
        return []

    def close(self) -> None: ...
