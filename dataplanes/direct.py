"""The reference without a load balancer.

Clients are given the backends' own addresses, and every figure is divided by the reference's. The reference is no
ceiling: a plane past the bridge can cost less. The limit is `direct-short`, the same path without the bridge.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataplanes.base import Attachments, Counter, DataPlane, Footprint
from dataplanes.model import Endpoint, Segment, Service


class Direct(DataPlane):
    """A data plane that programs nothing."""

    def __init__(self, attachments: Attachments | None = None, name: str = "direct") -> None:
        self.name = name

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
