"""The operations of a sequence, and the sights that may follow one: plain data, each with a sentence.

Services, backends, clients and flows have fixed names, so an operation means the same whatever was done before it. So a
sequence without some of its operations is still a sequence, and it can be played on any plane.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from itertools import product
from typing import Annotated, ClassVar, Literal, get_args, get_type_hints

from msgspec import Meta, Struct

ServiceName = Literal["web", "api"]
BackendName = Literal["red", "green", "blue"]
Caller = Literal["east", "west", "red"]
"""The containers that open flows: two clients, one on each node, and a backend."""
Target = Literal["web", "api", "red", "green", "blue"]
"""What a flow is opened to: a service's VIP, or a backend's own address."""
FlowNumber = Literal[1, 2, 3]
End = Literal["client", "backend"]
Transport = Literal["tcp", "udp"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
SERVICES: tuple[ServiceName, ...] = get_args(ServiceName)
CALLERS: tuple[Caller, ...] = get_args(Caller)
TARGETS: tuple[Target, ...] = get_args(Target)
FLOWS: tuple[FlowNumber, ...] = get_args(FlowNumber)


SightKind = Literal[
    "done", "failed", "answered", "late", "astray", "arrived", "ended", "reset", "refused", "silence", "stray"
]
"""The kinds of sights.

done: the change was made. failed: the plane refused it. answered, late, astray: a backend was reached; the first packet
had to be sent again; the answer came from an address that was not asked. arrived, ended: what an end sent, or its
close, came to the other end. reset: an end was told that the connection is no more. refused: nobody serves there.
silence: nothing came, or the network reported that nobody can be reached. stray: it came to a backend of another flow.
"""


class Sight(Struct, frozen=True):
    """What is seen after an operation. `by` is the backend that was reached."""

    kind: SightKind
    by: str = ""


DONE, ARRIVED, ENDED, RESET, REFUSED, SILENCE = (
    Sight(kind) for kind in ("done", "arrived", "ended", "reset", "refused", "silence")
)


class Operation(Struct, frozen=True, tag_field="do"):
    """One operation of a sequence."""

    def sentence(self) -> str:
        """Return the operation as a sentence."""
        raise NotImplementedError


class Create(Operation, frozen=True, tag="create"):
    """A service is created, with the first backends of three. Its VIP is that of its predecessor, if it had one."""

    service: ServiceName
    backends: Literal[1, 2, 3] = 2

    def sentence(self) -> str:
        return f"The service {self.service} is created with {joined(BACKENDS[: self.backends], 'and')}."


class Add(Operation, frozen=True, tag="add"):
    """A backend is added to a service. If it was drained, it gets connections again."""

    service: ServiceName
    backend: BackendName

    def sentence(self) -> str:
        return f"{self.backend} is added to {self.service}."


class Remove(Operation, frozen=True, tag="remove"):
    """A backend is removed from a service. Its container runs on."""

    service: ServiceName
    backend: BackendName

    def sentence(self) -> str:
        return f"{self.backend} is removed from {self.service}, and runs on."


class Drain(Operation, frozen=True, tag="drain"):
    """A backend of a service gets weight 0."""

    service: ServiceName
    backend: BackendName

    def sentence(self) -> str:
        return f"{self.backend} is drained in {self.service}."


class Delete(Operation, frozen=True, tag="delete"):
    """A service is removed. Its backends run on."""

    service: ServiceName

    def sentence(self) -> str:
        return f"The service {self.service} is removed."


class Resync(Operation, frozen=True, tag="resync"):
    """The plane restores its wanted state."""

    def sentence(self) -> str:
        return "The plane resyncs."


class Flush(Operation, frozen=True, tag="flush"):
    """Somebody flushes every rule and table, and the plane resyncs."""

    def sentence(self) -> str:
        return "Every rule and table is flushed, and the plane resyncs."


class Restart(Operation, frozen=True, tag="restart"):
    """The plane is removed, and another one is installed that knows nothing of it. It is told the services."""

    def sentence(self) -> str:
        return "The plane is removed and installed anew."


class Crash(Operation, frozen=True, tag="crash"):
    """A backend's container is gone at once. Its services still list it."""

    backend: BackendName

    def sentence(self) -> str:
        return f"The container of {self.backend} crashes."


class Restore(Operation, frozen=True, tag="restore"):
    """A container that crashed is created anew, with the same address."""

    backend: BackendName

    def sentence(self) -> str:
        return f"The container of {self.backend} is created anew, with the same address."


class Stop(Operation, frozen=True, tag="stop"):
    """The servers of a backend stop listening. Connections that are open go on."""

    backend: BackendName

    def sentence(self) -> str:
        return f"The servers of {self.backend} stop listening."


class Start(Operation, frozen=True, tag="start"):
    """The servers of a backend listen again."""

    backend: BackendName

    def sentence(self) -> str:
        return f"The servers of {self.backend} listen again."


class Visit(Operation, frozen=True, tag="visit"):
    """A container makes a TCP connection, from a port that nobody used before, and both ends close it at once."""

    client: Caller
    to: Target
    flow: ClassVar[int] = 0
    udp: ClassVar[bool] = False
    connected: ClassVar[bool] = False
    again: ClassVar[bool] = False
    by: ClassVar[End] = "client"

    def sentence(self) -> str:
        return f"{self.client} connects to {self.to} and closes."


class Connect(Operation, frozen=True, tag="connect"):
    """A container opens a TCP connection, from a port that nobody used before or from that of the flow's last one."""

    flow: FlowNumber
    client: Caller
    to: Target
    again: bool = False
    udp: ClassVar[bool] = False
    connected: ClassVar[bool] = False
    by: ClassVar[End] = "client"

    def sentence(self) -> str:
        return f"{self.client} connects to {self.to}{_port(self.again)} (flow {self.flow})."


class Ask(Operation, frozen=True, tag="ask"):
    """A container opens a UDP socket, which may be a connected one, and asks by a first datagram."""

    flow: FlowNumber
    client: Caller
    to: Target
    connected: bool = False
    again: bool = False
    udp: ClassVar[bool] = True
    by: ClassVar[End] = "client"

    def sentence(self) -> str:
        how = " by a connected socket" if self.connected else ""
        return f"{self.client} asks {self.to} by UDP{how}{_port(self.again)} (flow {self.flow})."


class Speak(Operation, frozen=True, tag="speak"):
    """One end of a flow sends. If the client of a UDP flow does, the backend answers."""

    flow: FlowNumber
    by: End
    comes: ClassVar[Sight] = ARRIVED

    def sentence(self) -> str:
        return f"The {self.by} of flow {self.flow} sends."


class HalfClose(Operation, frozen=True, tag="half-close"):
    """One end of a TCP connection closes its half."""

    flow: FlowNumber
    by: End
    comes: ClassVar[Sight] = ENDED

    def sentence(self) -> str:
        return f"The {self.by} of flow {self.flow} closes its half."


class Close(Operation, frozen=True, tag="close"):
    """Both ends of a flow close, one after the other. Of a UDP flow only the client's socket is closed."""

    flow: FlowNumber
    by: End
    comes: ClassVar[Sight] = ENDED

    def sentence(self) -> str:
        return f"Both ends of flow {self.flow} close, the {self.by} first."


class Abort(Operation, frozen=True, tag="abort"):
    """One end of a TCP connection ends it by a reset."""

    flow: FlowNumber
    by: End
    comes: ClassVar[Sight] = RESET

    def sentence(self) -> str:
        return f"The {self.by} of flow {self.flow} resets it."


class Idle(Operation, frozen=True, tag="idle"):
    """Nobody does anything for a while. Each time is a little shorter than one that a check observes."""

    seconds: Literal[20, 150, 390, 950, 3500]

    def sentence(self) -> str:
        return f"Nothing happens for {self.seconds} s."


Opening = Visit | Connect | Ask
"""The operations that open a flow, and"""
Using = Speak | HalfClose | Close | Abort
"""those that use one that is open."""
AnyOperation = (
    Create
    | Add
    | Remove
    | Drain
    | Delete
    | Resync
    | Flush
    | Restart
    | Crash
    | Restore
    | Stop
    | Start
    | Visit
    | Connect
    | Ask
    | Speak
    | HalfClose
    | Close
    | Abort
    | Idle
)
KINDS: tuple[type[AnyOperation], ...] = get_args(AnyOperation)
Operations = Annotated[list[AnyOperation], Meta(max_length=1000)]


def all_of(kind: type[AnyOperation]) -> list[AnyOperation]:
    """Return every operation of a kind, the simplest first."""
    hints = get_type_hints(kind)
    values = [_values(hints[name]) for name in kind.__struct_fields__]
    make: Callable[..., AnyOperation] = kind
    return [make(*chosen) for chosen in product(*values)]


def _values(hint: object) -> tuple[object, ...]:
    return (False, True) if hint is bool else get_args(hint)


_TEXTS: dict[str, str] = {
    "done": "the change is made",
    "failed": "the plane fails to make the change",
    "answered": "answered by {by}",
    "late": "answered by {by} when the first packet was sent again",
    "astray": "answered by {by}, from an address that was not asked",
    "arrived": "what was sent arrives",
    "ended": "the other end sees the close",
    "reset": "a reset",
    "refused": "refused",
    "silence": "no answer",
    "stray": "it comes to {by}",
}


def told(sights: Collection[Sight]) -> str:
    """Return some sights as a phrase, such as "answered by red or green, or refused"."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for each in sorted(sights, key=lambda sight: (list(_TEXTS).index(sight.kind), sight.by)):
        found[each.kind].append(each.by)
    phrases = [_TEXTS[kind].format(by=joined(names, "or")) for kind, names in found.items()]
    return joined(phrases, "or", comma=True)


def joined(names: Collection[str], last: str, *, comma: bool = False) -> str:
    """Return names as a list in a sentence: "a", "a or b", "a, b or c"."""
    *first, final = names
    return f"{', '.join(first)}{',' if comma else ''} {last} {final}" if first else final


def _port(again: bool) -> str:
    return " from the same port as before" if again else ""
