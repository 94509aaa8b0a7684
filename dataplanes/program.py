"""The mechanism of a plane file: somebody's program, in any language, that is told what is wanted (protocol 1).

The program is called with a verb, in the namespace of a site, as root: `open`, `apply`, `resync`, `close`, `counters`
or `footprint`. A JSON document on its stdin tells the site and all services that are wanted there. Its exit code tells
whether it has done so; if not, everything must be as it was, and the last line of its stderr is the reason. A program
that serves is started once for each site, and gets and answers a line for each call. docs/bring-your-own.md tells more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from dataplanes import packages
from dataplanes.base import Belongings, Counter, Director, Footprint, Hook, Mechanism, Placement, Reply, Site
from dataplanes.errors import BenchError, Prerequisite, Unsupported
from dataplanes.kernel.calls import Callee, ServingProgram, call
from dataplanes.kernel.enclosure import Enclosure
from dataplanes.kernel.undo import Undo
from dataplanes.model import Backend, Port, Service
from dataplanes.placements import ContainerPlacement, HostPlacement, LbPlacement, OverlayPlacement, TcPlacement
from dataplanes.plane_file import At, PlaneProgram
from dataplanes.recipe import Part
from dataplanes.requirements import Executable, Feature, Requirement, Tool, Unpacked
from dataplanes.vips import LocalRoutes

PROTOCOL: Literal[1] = 1
Verb = Literal["open", "apply", "resync", "close", "counters", "footprint"]
_Natural = Annotated[int, Meta(ge=0, le=2**53)]
_NOT_BY_NATURE = Unsupported.exit_code


class CalledSite(Struct, frozen=True):
    """The site of a call."""

    netns: str  # the namespace in which the program runs; `ip netns` knows it by this name
    network: str
    node: str
    subnet: str
    hook: Hook  # the point at which the site first sees a packet to a VIP
    reply: Reply  # the way of the replies
    interface: str  # at the hook tc the node's end of the container's veth, else the one that leads to the overlay
    address: str  # the site's own address in the subnet; at the hook tc the container's


class CalledService(Struct, frozen=True):
    """A service that is wanted."""

    name: str
    vip: str
    ports: tuple[Port, ...]  # none: every port of every transport
    backends: tuple[Backend, ...]


class Call(Struct, frozen=True):
    """The document of a call."""

    protocol: Literal[1]
    verb: Verb
    site: CalledSite
    services: tuple[CalledService, ...]  # all that are wanted, also those that do not change
    changed: tuple[str, ...]  # the services that were added, changed or removed by this call


class CountedBackend(Struct, frozen=True, forbid_unknown_fields=True):
    """The traffic to one backend of a service since the site was opened."""

    service: str
    backend: str
    connections: _Natural
    packets: _Natural | None = None
    bytes: _Natural | None = None


class HeldState(Struct, frozen=True, forbid_unknown_fields=True):
    """Kernel state of one kind that the program holds at the site."""

    kind: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[a-z0-9 -]+$(?!\n)")]
    objects: _Natural
    bytes: _Natural | None = None


class CallAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to a call. Nothing, or an empty object, is an answer, too."""

    counters: tuple[CountedBackend, ...] = ()
    footprint: tuple[HeldState, ...] = ()
    error: str = ""  # why a program that serves refuses; others end with an exit code
    code: int = 1  # with an error: what the exit code would be


def parts(program: PlaneProgram) -> tuple[Part[Placement], Part[Mechanism]]:
    """Return the parts of a plane whose mechanism is a program."""
    return _PLACEMENTS[program.placement](), Part(ProgramMechanism, program)


_PLACEMENTS: dict[At, Callable[[], Part[Placement]]] = {
    "container": lambda: Part(ContainerPlacement),
    "lb": lambda: Part(LbPlacement, LocalRoutes()),
    "overlay": lambda: Part(OverlayPlacement, LocalRoutes(), conntrack=True),
    "host": lambda: Part(HostPlacement, LocalRoutes()),
    "tc": lambda: Part(TcPlacement),
}


class ProgramMechanism(Mechanism):
    """A program of a plane file."""

    name = "program"

    def __init__(self, program: PlaneProgram) -> None:
        self.name = program.mechanism
        self.any_port = program.ports == "any"
        self.protocols = program.protocols
        self.in_turn = program.scheduler == "rr"
        self._program = program
        self._belongings: Belongings | None = None

    @classmethod
    def requires(cls, program: PlaneProgram) -> tuple[Requirement, ...]:
        first, tools = program.argv[0], program.tools
        purpose = f"the plane file of {program.name} names it"
        called: tuple[Requirement, ...] = (Tool(first, tools.get(first, first), purpose),)
        if os.path.sep in first:
            called = (Executable(first, "the program of the data plane"),)
        elif program.packages and first not in tools:  # it comes with them
            called = ()
        return (
            *called,
            *((Unpacked(" ".join(program.packages), purpose),) if program.packages else ()),
            *(Tool(name, package, purpose) for name, package in tools.items() if name != first),
            *(Feature(symbol, module, purpose) for symbol, module in program.features.items()),
        )

    def settle_in(self, belongings: Belongings) -> None:
        self._belongings = belongings

    def open(self, site: Site) -> Director:
        assert self._belongings
        return _ProgramDirector(self._program, site, self._belongings)


def _called_site(site: Site) -> CalledSite:
    """Return the site as a program is told of it. It runs where its hook is: tc's is in the overlay namespace."""
    netns, interface = site.netns, site.interface
    if site.hook == "tc":
        assert site.endpoint
        netns, interface = site.endpoint.overlay_netns, site.endpoint.bridge_port
    return CalledSite(netns, site.network, site.node, site.subnet, site.hook, site.reply, interface, site.address)


def _cannot_call(program: PlaneProgram, error: OSError) -> Prerequisite:
    where = str(error.filename or "the run's directory")
    return Prerequisite(f"cannot call {program.name}", where=where, why=error.strerror or str(error))


class _ProgramDirector(Director):
    """The program at one site. A refused call is undone by one that tells what was wanted before."""

    def __init__(self, program: PlaneProgram, site: Site, belongings: Belongings) -> None:
        self._program = program
        self._site = _called_site(site)
        self._services: dict[str, Service] = {}
        self._as_wanted = True
        self._server: ServingProgram | None = None
        self._opened = False
        label = f"{self._site.netns}.{site.network}" + (f".{self._site.interface}" if site.hook == "tc" else "")
        self._state = belongings.scratch(label)
        self._enclosure: Enclosure | None = None
        with Undo() as undo:
            undo(self._vacate)
            try:
                os.mkdir(self._state, 0o700)
            except OSError as error:
                raise _cannot_call(program, error) from error
            self._enclosure = Enclosure()
            belongings.process(self._enclosure.pid)
            self._callee = self._make_callee(self._enclosure)
            undo(partial(self._say, "close"))
            self._say("open")
            self._opened = True

    def _make_callee(self, enclosure: Enclosure) -> Callee:
        program, state = self._program, self._state
        env = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_")}
        env |= {"PLANE_STATE": state, "PLANE_PROTOCOL": str(PROTOCOL)} | packages.environment(program.packages, env)
        netns, said = self._site.netns, f"{state}.said"
        return Callee(program.name, program.argv, program.directory, netns, enclosure, env, said, program.timeout)

    # -- what is wanted ------------------------------------------------------------------------------------------

    def apply(self, services: Sequence[Service]) -> None:
        for service in services:
            other = next((port.protocol for port in service.ports if port.protocol not in self._program.protocols), "")
            if other:
                raise Unsupported(
                    f"{self._program.name} does not serve {other}", where=f"{service.network}/{service.name}"
                )
        self._change(self._services | {each.name: each for each in services}, services)

    def remove(self, services: Sequence[Service]) -> None:
        gone = {each.name for each in services}
        self._change({name: each for name, each in self._services.items() if name not in gone}, services)

    def _change(self, wanted: dict[str, Service], changed: Sequence[Service]) -> None:
        names = [each.name for each in changed]
        with Undo() as undo:
            undo(partial(self._say, "apply", self._services, names))
            self._say("apply", wanted, names)
        self._services = wanted

    def resync(self) -> None:
        self._say("resync", self._services)

    def intact(self) -> bool:
        return self._as_wanted

    def close(self) -> None:
        if not self._opened:
            return
        with Undo() as undo:
            undo(self.resync)
            self._say("close", self._services)
        self._opened = False
        self._vacate()

    def release(self) -> None:
        try:
            if self._opened:
                self._say("close", self._services)
        finally:
            self._opened = False
            self._vacate()

    def _vacate(self) -> None:
        """End what the program has started, and remove its directory."""
        if self._server:
            self._server.close()
            self._server = None
        if self._enclosure:
            self._enclosure.close()
            self._enclosure = None
        shutil.rmtree(self._state, ignore_errors=True)
        for path in (f"{self._state}.said", f"{self._state}.said.out"):
            with suppress(FileNotFoundError):
                os.unlink(path)

    # -- what is held --------------------------------------------------------------------------------------------

    def counters(self) -> list[Counter]:
        told = self._ask("counters").counters
        netns = self._site.netns
        return [Counter(netns, each.service, each.backend, each.connections, each.packets, each.bytes) for each in told]

    def footprint(self) -> list[Footprint]:
        told = self._ask("footprint").footprint
        return [Footprint(self._site.netns, each.kind, each.objects, each.bytes) for each in told]

    def _ask(self, verb: Literal["counters", "footprint"]) -> CallAnswer:
        """Ask what the program need not tell. One that refuses does not tell it."""
        answer = self._answer(verb, self._services, ())
        return CallAnswer() if answer.error else answer

    # -- calls ---------------------------------------------------------------------------------------------------

    def _say(self, verb: Verb, services: Mapping[str, Service] | None = None, changed: Sequence[str] = ()) -> None:
        """Tell the program what is wanted. Raises BenchError, and Unsupported if that cannot be, by its nature."""
        self._as_wanted = False
        answer = self._answer(verb, services or {}, changed)
        if answer.error:
            kind = Unsupported if answer.code == _NOT_BY_NATURE else BenchError
            raise kind(f"{self._program.name} refuses to {verb}", where=self._site.netns, why=answer.error)
        self._as_wanted = True

    def _answer(self, verb: Verb, services: Mapping[str, Service], changed: Sequence[str]) -> CallAnswer:
        called = tuple(CalledService(each.name, each.vip, each.ports, each.backends) for each in services.values())
        document = msgspec.json.encode(Call(PROTOCOL, verb, self._site, called, tuple(changed))) + b"\n"
        try:
            if self._program.serve:
                return self._decoded(verb, self._served(verb, document))
            ended = call(self._callee, verb, document)
        except OSError as error:  # of our own files
            raise _cannot_call(self._program, error) from error
        if ended.code:
            return CallAnswer(error=self._callee.reason() or f"exit code {ended.code}", code=ended.code)
        return self._decoded(verb, ended.output)

    def _served(self, verb: Verb, document: bytes) -> bytes:
        """Send a line to the program that serves. It is started at the first call, and after a call that went wrong."""
        if self._server is None:
            self._server = ServingProgram(self._callee)
            if self._opened and verb != "close":
                self._say("open")
                self._say("resync", self._services)
        server = self._server
        try:
            return server.call(verb, document)
        except BenchError:
            server.close()
            self._server = None
            raise

    def _decoded(self, verb: Verb, output: bytes) -> CallAnswer:
        if not output.strip():
            return CallAnswer()
        try:
            return msgspec.json.decode(output, type=CallAnswer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            fix = "print a JSON object or nothing on stdout, and messages on stderr"
            what = f"{self._program.name} gives no answer to {verb} that can be read"
            raise BenchError(what, where=self._site.netns, why=f"{error}: {output[:80]!r}", fix=fix) from error
