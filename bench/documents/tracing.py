"""The document of `bench trace`: the ways of a flow's packets, each rewrite of their addresses, and how each ends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bench.documents import SCHEMA, Count, Name
from dataplanes.elements import Decisive
from dataplanes.follower import Sighting

FlowProtocol = Literal["tcp", "udp", "icmp", "sctp"]
Until = Literal["reply", "close"]
MOST_BYTES = 65_507
"""The most bytes that an IPv4 datagram of UDP has room for."""


class Tracing(Struct, frozen=True):
    """The request to follow a flow: from a container to a service's VIP and port.

    A container that is not named is the scenario's client, and a service is the one that it calls. With a command, the
    flows are those that it begins to the VIP.
    """

    origin: str = ""
    service: str = ""
    protocol: FlowProtocol = "tcp"
    until: Until = "reply"
    command: list[str] = []
    size: Annotated[int, Meta(ge=1, le=MOST_BYTES)] = 1  # bytes of the request


class Fact(Struct, frozen=True):
    """A fact about a namespace, which was read after a flow.

    `kind`: a local `address` (the value is the node); a `neighbour` (the value is its MAC); the `mtu` of a device; a
    `sysctl`; an `ipvs` service, by what selects it (the value has its destinations); `conntrack`, the number of entries
    (the value is the most there can be); `bpf`, a VIP that the maps of the programs there have lost; a BPF `program`,
    by the device and the hook that it is attached to; a `rule` that has acted on a packet, or that is in an nft chain
    which was evaluated last before a drop, by its ruleset.
    """

    namespace: str
    kind: Literal["address", "neighbour", "mtu", "sysctl", "ipvs", "conntrack", "bpf", "program", "rule"]
    name: str
    value: str = ""
    number: Count = 0  # of a rule: its handle, or its target's place in a table of iptables


class Namespace(Struct, frozen=True):
    """A namespace that packets of the flow passed: its name without the run's number, its kind and its node."""

    name: str
    kind: str  # host, overlay, container or lb
    node: str


class Followed(Struct, frozen=True):
    """A flow as it was asked for, its sightings in the kernel, and what its client got."""

    dataplane: Name
    origin: str
    address: str  # the client's ADDRESS:PORT; for ICMP, the echo's number in place of the port; without for a command
    service: str
    vip: str  # ADDRESS:PORT; without a port for a command
    protocol: FlowProtocol
    answer: str = ""  # who answered, or what went wrong; the command's exit code
    answered: bool = False  # for a command: it has succeeded
    source: str = ""  # the address that the client's socket told as that of the answer; "" without one
    sightings: list[Sighting] = []
    lost: Count = 0  # sightings that the kernel had no room for
    namespaces: list[Namespace] = []  # in the order of a walk
    facts: list[Fact] = []  # only of IPVS, programs and rules, if there was an answer
    elements: list[Decisive] = []  # of BPF maps, that explain rewrites
    command: list[str] = []  # the command or the check that has sent the requests, if there was one
    vips: list[str] = []  # for a check: the VIPs to which flows were followed
    counted: bool = False  # the times are instructions, and the sightings tell all that following has taken


class Hop(Struct, frozen=True):
    """An event on the way of a packet at a place.

    `kind`: its addresses are rewritten; it is sent on to another MAC by a decision; it is carried between nodes; it is
    divided into fragments, or put together of them.
    """

    kind: Literal["rewritten", "sent on", "carried", "divided", "joined"]
    namespace: str
    device: str
    hook: str  # PREROUTING, bridge FORWARD, tc ingress, inet4_connect, ...
    before: list[str]  # source and destination
    after: list[str]
    by: str  # the ruleset, IPVS or the program that decided
    rules: list[str] = []  # those of the ruleset that did it, if they are known
    instructions: Count | None = None  # executed since the flow's first sighting, without those of following
    elements: list[str] = []  # of BPF maps, that explain what a program did
    tracked: str = ""  # what connection tracking called the packet before: as that of a sighting


class WayEnd(Struct, frozen=True):
    """The end of a way.

    The packet arrived at a socket, was dropped, was seen there last and then not any more, or was a fragment that was
    joined to the datagram's others there.
    """

    kind: Literal["arrived", "dropped", "lost", "joined"]
    namespace: str
    device: str
    hook: str = ""
    function: str = ""  # the kernel function that dropped it, or at which it was seen last
    reason: str = ""  # of the kernel
    by: str = ""  # the ruleset that was evaluated last, if it was dropped at a hook
    rules: list[str] = []  # those of it that did it, if they are known
    instructions: Count | None = None  # as those of a hop
    tracked: str = ""  # as that of a hop


class Passage(Struct, frozen=True):
    """A packet's stay in a namespace, with the devices at which it was seen first and last there."""

    namespace: str
    entered: str
    left: str
    steps: Count = 0  # the number of the way's steps that happen there, each after those of earlier passages


class Way(Struct, frozen=True):
    """The way of one packet."""

    direction: Literal["request", "reply", "error"]
    what: str  # SYN, SYN ACK, datagram, echo, ...
    source: str
    destination: str
    steps: list[Hop]
    end: WayEnd
    others: Count = 0  # later packets of the flow that took the same way
    passages: list[Passage] = []  # the namespaces that it passed, in their order; one may come again
    instructions: Count | None = None  # as those of a hop, up to its beginning


class Explanation(Struct, frozen=True):
    """The place of a fault, and the sentence that explains why there was no answer."""

    namespace: str
    device: str
    hook: str
    why: str


class Story(Struct, frozen=True):
    """The story of a flow: the ways of its packets. A later packet has its own if it is rewritten otherwise."""

    flow: Followed
    ways: list[Way]
    cause: Explanation | None = None  # None if there was an answer


class TraceDocument(Struct, tag_field="kind", tag="trace"):
    """The document that `bench trace --json` writes, with a story for each data plane."""

    tool: dict[str, Any]
    environment: dict[str, Any]
    plan: dict[str, Any]
    stories: list[Story]
    schema: Literal[2] = SCHEMA
