"""The job of `bench trace` on the kernel under test: a lab is built, a flow is sent, and its packets are followed."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec
from msgspec.structs import replace

from bench.documents import Event, Job
from bench.documents.tracing import Followed, Namespace, Tracing, Until
from bench.inside import asking, environment, facts, trial
from dataplanes.follower import Follower, Sighting
from dataplanes.kernel.btf import KernelTypes
from dataplanes.selection import balances
from scenarios import topology
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.testbed import Testbed

_PATIENCE = 5.0  # seconds for an answer
_LAST = "FIN", "SHUTDOWN"
"""The beginnings of the flags of segments, and of the names of chunks, that end a connection."""
_QUIET = 0.2  # seconds without a sighting after which no more are expected


def trace(job: Job, clock: str, tell: Callable[[Event], None]) -> int:
    """Follow a flow on each plane of the job, each in a fresh lab. The environment is told last: a person waits."""
    tracing = msgspec.convert(job.tracing, Tracing)
    types = msgspec.convert(job.types, KernelTypes, str_keys=True)
    asking.autoload(tracing.protocol)
    for selection in job.selections:
        scenario = topology.load(job.scenario)
        with (
            Journal() as journal,
            trial.observed(scenario, selection, journal) as lab,
            following(lab, types, clock) as follower,
        ):
            tell(Event("flow", data=msgspec.to_builtins(follow(lab, tracing, follower, plane=selection.name))))
    tell(Event("environment", data=environment.collect(clock)))
    return 0


@contextmanager
def following(lab: Testbed, types: KernelTypes, clock: str) -> Iterator[Follower]:
    """Yield a follower in all namespaces of a lab. By the instruction clock it finds out what it takes itself."""
    with ExitStack() as stack:
        work = stack.enter_context(loopback(lab)) if clock == "instructions" else None
        yield stack.enter_context(attached(lab, types, work))


@contextmanager
def attached(lab: Testbed, types: KernelTypes, work: Callable[[], object] | None = None) -> Iterator[Follower]:
    """Yield a follower in all namespaces of a lab, and in those that come later."""
    with Follower(types, {name: facts.shown(name) for _, _, name in lab.namespaces()}, work) as follower:
        fabric = lab.fabric if isinstance(lab, Lab) else None  # a platform makes namespaces without telling
        if fabric:
            fabric.on_namespace = lambda name: follower.add(name, facts.shown(name))
        try:
            yield follower
        finally:
            if fabric:
                fabric.on_namespace = lambda name: None


@contextmanager
def loopback(lab: Testbed) -> Iterator[Callable[[], object]]:
    """Yield some work of the kernel that meets a follower's programs: the client sends a datagram to itself."""
    with lab.socket(lab.scenario.traffic.client, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        own.connect(own.getsockname())
        yield lambda: (own.send(b"w"), own.recv(1))


def follow(
    lab: Testbed,
    tracing: Tracing,
    follower: Follower,
    request: bytes = b"",
    patience: float = _PATIENCE,
    *,
    plane: str = "",
) -> Followed:
    """Send one request in a lab, and return the flow with its sightings. `plane` is the name of what balances it."""
    traffic = lab.scenario.traffic
    origin, service = tracing.origin or traffic.client, tracing.service or traffic.service
    name = plane or (lab.plane.name if isinstance(lab, Lab) and lab.plane else "")
    address, vip = ends(lab, origin, service, by_vip=balances(name))
    if tracing.command:
        return _of_command(lab, tracing, follower, Followed(name, origin, address, service, vip, tracing.protocol))
    port = traffic.port if tracing.protocol != "icmp" else asking.PORT
    flow = Followed(name, origin, f"{address}:{asking.PORT}", service, f"{vip}:{port}", tracing.protocol)
    follower.watch(lab.containers[origin].netns, tracing.protocol, port=asking.PORT)
    asked = asking.Sending(origin, vip, service, tracing.protocol, request or b"w" * tracing.size)
    answer, source = asking.ask(lab, asked, patience)
    return seen(lab, follower, replace(flow, answer=answer, answered=bool(source), source=source), tracing.until)


def _of_command(lab: Testbed, tracing: Tracing, follower: Follower, flow: Followed) -> Followed:
    """Run the command in the client's container, and return the flows that it has begun."""
    netns = lab.containers[flow.origin].netns
    follower.watch(netns, flow.protocol, vips=[flow.vip])
    argv = ("ip", "netns", "exec", netns, *tracing.command)  # with the container's resolver
    with lab.spawn(flow.origin, argv, stdin=subprocess.DEVNULL, stdout=2) as process:
        try:
            code = process.wait()
        finally:
            process.kill()
    answer = f"exit code {code}"
    return seen(lab, follower, replace(flow, command=tracing.command, answer=answer, answered=not code), "close")


def seen(lab: Testbed, follower: Follower, flow: Followed, until: Until) -> Followed:
    """Return a flow that has ended with its sightings, and with facts that explain them."""
    sightings = _until_quiet(follower)
    if until == "reply":
        sightings = _without_end(sightings)
    known = facts.ipvs(_balanced(lab, sightings)) if flow.answered else facts.facts(lab, lab.service(flow.service))
    known += facts.rules(lab, sightings) + facts.programs(lab, sightings)
    flow = replace(flow, sightings=sightings, namespaces=_passed(lab, sightings), facts=known)
    flow = replace(flow, elements=facts.elements(lab, sightings))
    return replace(flow, lost=follower.lost(), counted=follower.counts)


def _passed(lab: Testbed, sightings: Sequence[Sighting]) -> list[Namespace]:
    """Return the namespaces in which the flow was seen."""
    seen, there = {each.namespace for each in sightings}, lab.namespaces()
    return [Namespace(facts.shown(name), kind, node) for kind, node, name in there if facts.shown(name) in seen]


def _balanced(lab: Testbed, sightings: Sequence[Sighting]) -> list[str]:
    """Return the namespaces in which IPVS has seen the flow."""
    seen = {each.namespace for each in sightings if each.place.startswith("ip_vs")}
    return [name for _, _, name in lab.namespaces() if facts.shown(name) in seen]


def ends(testbed: Testbed, origin: str, service: str, *, by_vip: bool) -> tuple[str, str]:
    """Return the client's address on the service's network, and the address that it asks: the VIP.

    A plane without VIPs is asked at the service's first backend, if there is one.
    """
    target, endpoints = testbed.service(service), testbed.containers[origin].endpoints
    own = next((each for each in endpoints if each.network == target.network), endpoints[0])
    return own.address, target.vip if by_vip or not target.backends else target.backends[0].address


def _until_quiet(follower: Follower) -> list[Sighting]:
    """Return all sightings, when none has come for a while."""
    found, deadline = follower.sightings(), time.monotonic() + _QUIET
    while time.monotonic() < deadline:
        if more := follower.sightings():
            found += more
            deadline = time.monotonic() + _QUIET
        os.sched_yield()
    return found


def _without_end(sightings: list[Sighting]) -> list[Sighting]:
    """Return the sightings of the packets that were sent before one that ends the connection."""
    first = min((each.time for each in sightings if each.flags.startswith(_LAST)), default=math.inf)
    # A packet is named after the time of its first sighting.
    return [each for each in sightings if each.packet < first and not each.flags.startswith(_LAST)]
