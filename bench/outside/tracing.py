"""The command `bench trace`: a flow is followed on each plane, and its story is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.analysis.story import story
from bench.documents import Event, Job
from bench.documents.tracing import Followed, Story, TraceDocument, Tracing
from bench.kernels import Kernel
from bench.outside import provenance
from bench.outside.dispatch import dispatch
from dataplanes import catalog, follower
from dataplanes.errors import BenchError, Prerequisite, Usage
from dataplanes.kernel.btf import Btf
from dataplanes.selection import Selection
from scenarios.topology import Scenario


def demand_served(selections: Sequence[Selection], tracing: Tracing) -> None:
    """Raise Usage if a plane does not serve the transport of a request. All send on the answers of a ping."""
    for each in selections:
        served = catalog.protocols(each)
        if tracing.protocol != "icmp" and tracing.protocol not in served:
            fix = f"it serves {', '.join(served)}"
            raise Usage(f"{each.dataplane} does not serve {tracing.protocol.upper()}", where="--protocol", fix=fix)


def demand_known(scenario: Scenario, tracing: Tracing) -> None:
    """Raise Usage if the scenario does not have the container or the service of a request."""
    containers = [task.name for task in scenario.tasks()]
    services = [service.name for service in scenario.services]
    for what, name, there in (("container", tracing.origin, containers), ("service", tracing.service, services)):
        if name and name not in there:
            raise Usage(f"no such {what}", where=name, fix=f"{scenario.name} has: {', '.join(there)}")


def trace(
    scenario: str,
    selections: Sequence[Selection],
    tracing: Tracing,
    kernel: Kernel,
    reason: str,
    *,
    timeout: float | None = None,
    on_story: Callable[[Story], None] = lambda story: None,
) -> TraceDocument:
    """Follow the flow on each plane, and return the document. Each story is told as soon as it is known.

    Raises Prerequisite for a kernel that does not describe its types.
    """
    image = kernel.types()
    if not image:
        raise Prerequisite(
            "cannot follow packets", where=kernel.name, why="its kernel has no BTF", fix="--kernel guest"
        )
    environment: dict[str, Any] = {}
    stories: list[Story] = []

    def take(event: Event) -> None:
        if event.kind == "environment":
            environment.update(event.data)
        elif event.kind == "flow":
            stories.append(story(msgspec.convert(event.data, Followed)))
            on_story(stories[-1])

    job = Job("trace", scenario, list(selections))
    job.tracing, job.types = msgspec.to_builtins(tracing), msgspec.to_builtins(follower.wanted(Btf(image)))
    code = dispatch(job, kernel, timeout=timeout, on_event=take)
    if code:
        raise BenchError("the trace ended early", where=kernel.name, why=f"exit code {code}")
    plan = msgspec.to_builtins(tracing) | {"scenario": scenario, "dataplanes": provenance.planes(selections)}
    return TraceDocument(
        provenance.tool(),
        environment | provenance.kernel(kernel, reason),
        plan | {"command": provenance.command()},
        stories,
    )
