"""The job of `bench trace` on the kernel under test: a lab is built, a flow is sent, and its packets are followed."""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from bench.documents import Event, Job
from bench.documents.tracing import Followed, Namespace, Tracing, Until
from bench.inside import environment, facts, trial
from dataplanes.follower import Follower, Sighting
from dataplanes.kernel.btf import KernelTypes
from dataplanes.selection import balances
from scenarios import topology
from scenarios.journal import Journal
from scenarios.lab import Lab
from scenarios.testbed import Testbed

_PORT = 40_001
"""The client's port, or the number of its echo. Nobody else uses it in a fresh lab."""
_PATIENCE = 5.0  # seconds for an answer
_QUIET = 0.2  # seconds without a sighting after which no more are expected


def trace(job: Job, clock: str, tell: Callable[[Event], None]) -> int:
    """Follow a flow on each plane of the job, each in a fresh lab. The environment is told last: a person waits."""
    tracing = msgspec.convert(job.tracing, Tracing)
    types = msgspec.convert(job.types, KernelTypes, str_keys=True)
    for selection in job.selections:
        scenario = topology.load(job.scenario)
        with Journal() as journal, trial.build(scenario, selection, journal) as lab, attached(lab, types) as follower:
            tell(Event("flow", data=msgspec.to_builtins(follow(lab, tracing, follower))))
    tell(Event("environment", data=environment.collect(clock)))
    return 0


def attached(lab: Lab, types: KernelTypes) -> Follower:
    """Return a follower in all namespaces of a lab."""
    return Follower(types, {name: facts.shown(name) for _, _, name in lab.namespaces()})


def follow(
    lab: Lab, tracing: Tracing, follower: Follower, request: bytes = b"w", patience: float = _PATIENCE
) -> Followed:
    """Send one request in a lab, and return the flow with its sightings."""
    traffic = lab.scenario.traffic
    origin, service = tracing.origin or traffic.client, tracing.service or traffic.service
    name = lab.plane.name if lab.plane else ""
    address, vip = ends(lab, origin, service, by_vip=balances(name))
    if tracing.command:
        return _of_command(lab, tracing, follower, Followed(name, origin, address, service, vip, tracing.protocol))
    port = traffic.port if tracing.protocol != "icmp" else _PORT
    flow = Followed(name, origin, f"{address}:{_PORT}", service, f"{vip}:{port}", tracing.protocol)
    follower.watch(lab.containers[origin].netns, tracing.protocol, port=_PORT)
    answer, source = _ask(lab, origin, vip, tracing, request, patience)
    return seen(lab, follower, replace(flow, answer=answer, answered=bool(source), source=source), tracing.until)


def _of_command(lab: Lab, tracing: Tracing, follower: Follower, flow: Followed) -> Followed:
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


def seen(lab: Lab, follower: Follower, flow: Followed, until: Until) -> Followed:
    """Return a flow that has ended with its sightings, and with facts that explain them."""
    sightings = _until_quiet(follower)
    if until == "reply":
        sightings = _without_end(sightings)
    known = facts.ipvs(_balanced(lab, sightings)) if flow.answered else facts.facts(lab, lab.service(flow.service))
    known += facts.rules(lab, sightings)
    return replace(flow, sightings=sightings, lost=follower.lost(), namespaces=_passed(lab, sightings), facts=known)


def _passed(lab: Lab, sightings: Sequence[Sighting]) -> list[Namespace]:
    """Return the namespaces in which the flow was seen."""
    seen, there = {each.namespace for each in sightings}, lab.namespaces()
    return [Namespace(facts.shown(name), kind, node) for kind, node, name in there if facts.shown(name) in seen]


def _balanced(lab: Lab, sightings: Sequence[Sighting]) -> list[str]:
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


def _ask(lab: Lab, origin: str, vip: str, tracing: Tracing, request: bytes, patience: float) -> tuple[str, str]:
    """Send the request. Return who answered and from which address, or what went wrong and ""."""
    kind, number = {
        "tcp": (socket.SOCK_STREAM, 0),
        "udp": (socket.SOCK_DGRAM, 0),
        "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
    }[tracing.protocol]
    port = lab.scenario.traffic.port
    with lab.socket(origin, kind, number) as made:
        made.settimeout(patience)
        try:
            if tracing.protocol == "icmp":
                return _ping(made, vip, patience)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it may have been used in this lab before
            made.bind(("", _PORT))
            if tracing.protocol == "udp":
                made.sendto(request, (vip, port))
                answer, source = made.recvfrom(256)
                return _who(answer), _address(source)
            made.connect((vip, port))
            made.sendall(request)
            return _who(made.recv(256)), _address(made.getpeername())
        except TimeoutError:
            return f"nothing for {patience:g} s", ""
        except OSError as error:
            return error.strerror or str(error), ""


def _ping(made: socket.socket, vip: str, patience: float) -> tuple[str, str]:
    head, deadline = struct.pack("!BBHHH", 8, 0, 0, _PORT, 1), time.monotonic() + patience
    made.sendto(head[:2] + struct.pack("!H", _checksum(head)) + head[4:], (vip, 0))
    while time.monotonic() < deadline:
        packet, source = made.recvfrom(256)
        kind: int
        kind, _, _, number, _ = struct.unpack_from("!BBHHH", packet, (packet[0] & 15) * 4)
        if kind == 0 and number == _PORT:
            return "an echo", _address((source[0], _PORT))
    raise TimeoutError


def _address(of: tuple[Any, ...]) -> str:
    return f"{of[0]}:{of[1]}"


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _who(answer: bytes) -> str:
    """Return what the backend tells of itself: its number, and the addresses that it saw."""
    words = answer.decode("ascii", "replace").split()
    return f"backend {words[0]}, which saw {words[1]}:{words[2]}" if len(words) > 2 else "a backend"


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
    first = min((each.time for each in sightings if "FIN" in each.flags), default=math.inf)
    # A packet is named after the time of its first sighting.
    return [each for each in sightings if each.packet < first and "FIN" not in each.flags]
