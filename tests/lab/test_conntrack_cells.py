"""Every state of a connection through a VIP, every idle time and every event, and where the packet then arrives.

conntrack_cells.toml has the states, the time-outs and the right outcomes. conntrack_faults.toml has today's wrong
outcomes, cell by cell. There are two backends, so a connection that a plane has lost is noticed: a new decision leads
to the other backend.
"""

from __future__ import annotations

import heapq
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from dataplanes.kernel.netns import inside
from tests.lab.aging import age
from tests.lab.conftest import running
from tests.lab.segments import Flow, Wire
from tests.lab.segments import wire as open_wire

Change = Literal["removed", "drained", "emptied"]
When = Literal["remembered", "forgotten", "removed", "drained", "emptied"]


class State(Struct, frozen=True, forbid_unknown_fields=True):
    """A state: the steps that lead into it, and the seconds for which each tracker remembers it."""

    name: str
    steps: str
    conntrack: float
    ipvs: float
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    ebpf: float | None = None  # where eBPF remembers it for another time than connection tracking
    bridge: float | None = None  # where nft-bridge does
    events: tuple[str, ...] = ()  # what can come, if not everything

    def remembered(self, tracker: str) -> float:
        return {"conntrack": self.conntrack, "ipvs": self.ipvs}[tracker]

    @property
    def waits(self) -> bool:
        """Return True if its steps include an idle time."""
        return any(step.isdecimal() for step in self.steps.split())

    @property
    def shortest(self) -> float:
        """Return the shorter time-out of those who remember the state at all."""
        return min(filter(None, (self.conntrack, self.ipvs)))

    def idles(self) -> list[int]:
        """Return times shortly before and after each time-out, unless another time-out is near."""
        known = [t for t in (self.conntrack, self.ipvs) if t]
        near = {round(part * t) for t in known for part in (0.7, 1.3)}
        return sorted(idle for idle in near if all(abs(idle - t) > 0.2 * t for t in known))


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """An expected outcome. A field that it does not name matches everything."""

    seen: str
    when: list[When]
    events: list[str] = []
    states: list[str] = []
    protocols: list[str] = []
    trackers: list[str] = []
    planes: list[str] = []
    reason: str = ""

    def matches(self, plane: str, tracker: str, state: State, when: When, event: str) -> bool:
        named = (
            (self.planes, plane),
            (self.trackers, tracker),
            (self.protocols, state.protocol),
            (self.states, state.name),
            (self.events, event),
        )
        return when in self.when and all(not names or name in names for names, name in named)


class Cells(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of conntrack_cells.toml."""

    events: dict[str, list[str]]
    trackers: dict[str, str]
    states: list[State]
    rules: list[Rule]

    def expected(self, plane: str, state: State, when: When, event: str) -> str:
        tracker = self.trackers[plane]
        matching = (rule for rule in reversed(self.rules) if rule.matches(plane, tracker, state, when, event))
        return next((rule.seen for rule in matching), "whatever: no rule says")

    def remembers(self, plane: str, state: State, idle: float) -> bool:
        own = state.ebpf if plane.startswith("ebpf-") else state.bridge if plane == "nft-bridge" else None
        return idle < (state.remembered(self.trackers[plane]) if own is None else own)


BRIEF = 10
"""Seconds. A state that is forgotten sooner may be forgotten before its turn comes."""
LONG = 1200
"""Seconds. A connection that is to be idle for longer is made older (aging.py)."""
HERE = Path(__file__).parent
CELLS = msgspec.toml.decode((HERE / "conntrack_cells.toml").read_bytes(), type=Cells)
FAULTS = msgspec.toml.decode((HERE / "conntrack_faults.toml").read_bytes(), type=dict[str, dict[str, dict[str, str]]])
"""Plane -> "state; situation" -> event -> what is seen."""

Seen = dict[str, dict[str, str]]


def test_the_faults_are_of_cells_there_are() -> None:
    situations = {
        state.name: [*(f"{idle} s" for idle in (0, *state.idles())), *get_args(Change)] for state in CELLS.states
    }
    cells = {f"{name}; {each}" for name, all_of_it in situations.items() for each in all_of_it}
    assert {row for rows in FAULTS.values() for row in rows} <= cells
    assert FAULTS.keys() <= CELLS.trackers.keys()


def judge(plane: str, seen: Seen, expected: Seen) -> None:
    """Every cell is as expected, except those that are known to be wrong, which still are."""
    wrong = {row: {what: got for what, got in seen[row].items() if got != expected[row][what]} for row in seen}
    known = FAULTS.get(plane, {})
    told = []
    for row in seen:
        if wrong[row] != known.get(row, {}):
            cells = ", ".join(f'"{what}" = "{got}"' for what, got in wrong[row].items())
            right = ", ".join(f"{what} {expected[row][what]}" for what in wrong[row]) or "all of it, as it is"
            told.append(f'"{row}" = {{ {cells} }} # expected: {right}')
    assert not told, "\n".join([f"not as expected, nor as conntrack_faults.toml has it for {plane}:", *told])


def reach(wire: Wire, state: State, backend: int | None = None) -> Generator[float, None, Flow]:
    """Bring a connection into the state, with the wanted backend."""
    while True:
        flow = wire.flow(getattr(socket, f"IPPROTO_{state.protocol}"))
        for step in state.steps.split():
            if step.isdecimal():
                yield float(step)
                continue
            seen = wire.step(flow, step)
            assert seen in ("backend", "client"), f"on the way, {step} of {state.steps}: {seen}"
            if backend is not None and flow.backend is not wire.backends[backend]:
                break
        else:
            return flow


def event(wire: Wire, flow: Flow, what: str) -> str:
    """Return where the packet arrives."""
    seen = wire.step(flow, what)
    return "arrives" if seen in ("backend", "client") else seen


def events_after(state: State) -> list[str]:
    """Return True if the event can happen: an end complains only about a packet that it got."""
    silent = [f"{side}:U" for side, peer in (("C", "B"), ("B", "C")) if f"{peer}:" not in state.steps]
    return [each for each in state.events or CELLS.events[state.protocol] if each not in silent]


def cell(wire: Wire, state: State, idle: float, what: str) -> Generator[float, None, str]:
    """Idle with one connection in a state, and then cause the event."""
    flow = yield from reach(wire, state)
    if idle > LONG:
        age(wire.lab, flow, round(idle - LONG))
    if idle:
        yield min(idle, LONG)
    if what.startswith("C:"):
        wire.turn_to_other(flow)
    return event(wire, flow, what)


def side_by_side(cells: dict[tuple[str, str], Generator[float, None, str]]) -> Seen:
    """Run all of them at once, each with its own idle times."""
    seen: Seen = {}
    queue = [(0.0, number, *each) for number, each in enumerate(cells.items())]
    while queue:
        due, number, (row, what), going = heapq.heappop(queue)
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            wait = next(going)
        except StopIteration as end:
            seen.setdefault(row, {})[what] = end.value
        else:
            heapq.heappush(queue, (time.monotonic() + wait, number, (row, what), going))
    return seen


def observe(plane: str, idles: dict[str, list[int]]) -> tuple[Seen, Seen]:
    """Return the outcomes of every state after its idle times, and the expected ones."""
    seen: Seen = {}
    expected: Seen = {}
    with running(plane) as lab, open_wire(lab) as wire:
        at_once(reach(wire, CELLS.states[0]))  # Python reads now what it has not read yet
        for states in in_time():
            cells = {}
            for state in states:
                for idle in idles[state.name]:
                    row = f"{state.name}; {idle} s"
                    when: When = "remembered" if CELLS.remembers(plane, state, idle) else "forgotten"
                    for what in events_after(state):
                        cells[row, what] = cell(wire, state, idle, what)
                        expected.setdefault(row, {})[what] = CELLS.expected(plane, state, when, what)
            seen |= side_by_side(cells)
        return seen, expected


def in_time() -> list[list[State]]:
    """Return the states in groups that can be tried side by side. One that is forgotten in seconds is a group alone."""
    brief = [state for state in CELLS.states if state.shortest < BRIEF]
    return [[state for state in CELLS.states if state not in brief], *([state] for state in brief)]


@pytest.mark.parametrize("plane", CELLS.trackers)
def test_what_comes_at_once(plane: str) -> None:
    judge(plane, *observe(plane, {state.name: [] if state.waits else [0] for state in CELLS.states}))


@pytest.mark.idle
@pytest.mark.parametrize("plane", CELLS.trackers)
def test_what_comes_after_an_idle_time(plane: str) -> None:
    judge(plane, *observe(plane, {state.name: state.idles() for state in CELLS.states}))


def at_once(going: Generator[float, None, Flow]) -> Flow:
    """End the connections that need not wait."""
    try:
        raise AssertionError(f"it waits {next(going):g} s")
    except StopIteration as end:
        flow: Flow = end.value
        return flow


@contextmanager
def changed(wire: Wire, change: Change) -> Iterator[None]:
    """Remove or drain the service's first backend, or all of them. The containers run on."""
    plane = wire.lab.plane
    assert plane
    known = wire.lab.service(wire.service)
    first, *rest = known.backends
    backends = {"removed": rest, "emptied": [], "drained": [replace(first, weight=0), *rest]}[change]
    plane.apply([replace(known, backends=tuple(backends))])
    yield
    plane.apply([known])


def ipvs_has_forgotten(wire: Wire) -> None:
    """Wait until IPVS has forgotten the connections of the destination that is gone.

    A worker of its own does that (net/netfilter/ipvs/ip_vs_ctl.c, expire_nodest_conn_handler).
    """
    gone = socket.inet_aton(wire.backends[0].address).hex().upper()
    for _, _, name in wire.lab.namespaces():
        with inside(name), suppress(FileNotFoundError):
            while gone in Path("/proc/thread-self/net/ip_vs_conn").read_text("ascii"):
                time.sleep(0.01)


@pytest.mark.parametrize("change", get_args(Change))
@pytest.mark.parametrize("plane", CELLS.trackers)
def test_what_comes_after_a_change(plane: str, change: Change) -> None:
    seen: Seen = {}
    expected: Seen = {}
    left = [state for state in CELLS.states if not state.waits and state.shortest >= BRIEF]
    with running(plane) as lab, open_wire(lab) as wire:
        while left:  # only three at a time, so that none is forgotten before its turn comes
            states, left = left[:3], left[3:]
            flows = {(state, what): at_once(reach(wire, state, 0)) for state in states for what in events_after(state)}
            with changed(wire, change):
                if CELLS.expected(plane, states[0], change, "B:D") == "stray":
                    ipvs_has_forgotten(wire)
                for state in states:
                    row = f"{state.name}; {change}"
                    when = "forgotten" if change == "drained" and not CELLS.remembers(plane, state, 0) else change
                    for what in events_after(state):
                        seen.setdefault(row, {})[what] = event(wire, flows[state, what], what)
                        expected.setdefault(row, {})[what] = CELLS.expected(plane, state, when, what)
    judge(plane, seen, expected)
