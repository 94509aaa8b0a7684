"""The shortest sequence that still fails: what a longer one has too much is found by leaving it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from msgspec.structs import asdict, replace

from scenarios.explore import operations as do
from scenarios.explore.operations import AnyOperation, Operations

Fails = Callable[[Operations], Operations | None]
"""A function that plays a sequence. It returns the operations up to the one that fails, or None if none does."""
_PAIRS = 10
"""The length up to which every two operations are left out together, such as a crash and what restores it."""


def shortest(found: Sequence[AnyOperation], fails: Fails, shorter: Callable[[Operations], object]) -> Operations:
    """Return a sequence that fails, of which no operation, and no two of them, can be left out.

    `shorter` is called with each shorter one when it is found.
    """
    best, before = list(found), None
    while best != before:
        before = best
        for candidates in (_shorter, _without_pairs, _exchanged, _simpler):
            best = _improved(best, candidates, fails, shorter)
    return best


def _improved(
    best: Operations,
    candidates: Callable[[Operations], Iterator[Operations]],
    fails: Fails,
    shorter: Callable[[Operations], object],
) -> Operations:
    """Go on from each candidate that fails, until none does."""
    while better := next((each for each in map(fails, candidates(best)) if each is not None), None):
        best = better
        shorter(best)
    return best


def _shorter(found: Operations) -> Iterator[Operations]:
    """Yield the sequence without a part of it, large parts first. The last operation stays: it is what fails."""
    before, last = found[:-1], found[-1]
    size = len(before) // 2
    while size:
        for end in range(len(before), 0, -size):
            yield [*before[: max(end - size, 0)], *before[end:], last]
        size //= 2


def _without_pairs(found: Operations) -> Iterator[Operations]:
    before, last = found[:-1], found[-1]
    for pair in combinations(range(len(before)), 2) if len(found) <= _PAIRS else ():
        yield [*(each for number, each in enumerate(before) if number not in pair), last]


def _exchanged(found: Operations) -> Iterator[Operations]:
    """Yield the sequence without one operation and with two backends exchanged: without it others have the turns."""
    before, last = found[:-1], found[-1]
    for number in range(len(before)):
        for one, other in combinations(do.BACKENDS, 2):
            names = {one: other, other: one}
            yield [_with_backends(each, names) for each in (*before[:number], *before[number + 1 :], last)]


def _with_backends(operation: AnyOperation, names: dict[do.BackendName, do.BackendName]) -> AnyOperation:
    """Exchange backends. One that calls goes on to call if the other one never does."""
    changed = {
        field: names[value]
        for field, value in asdict(operation).items()
        if value in names and (field != "client" or names[value] in do.CALLERS)
    }
    return replace(operation, **changed) if changed else operation


def _simpler(found: Operations) -> Iterator[Operations]:
    """Yield the sequence with one thing simpler: a field, or the name of a flow or a service everywhere."""
    for name in ("flow", "service"):
        renamed = [_renamed(each, name, found) for each in found]
        if renamed != found:
            yield renamed
    for number, each in enumerate(found):
        for name, value in asdict(each).items():
            simplest = asdict(do.all_of(type(each))[0])[name]
            if value != simplest and name not in ("flow", "service", "by"):
                yield [*found[:number], replace(each, **{name: simplest}), *found[number + 1 :]]


def _renamed(operation: AnyOperation, name: str, found: Operations) -> AnyOperation:
    """Name flows and services by the order in which they appear."""
    fields = ("service", "to") if name == "service" else (name,)
    order = dict.fromkeys(asdict(each)[field] for each in found for field in fields if field in asdict(each))
    known = do.SERVICES if name == "service" else do.FLOWS
    names = dict(zip((each for each in order if each in known), known, strict=False))
    changed = {field: names[value] for field, value in asdict(operation).items() if field in fields and value in names}
    return replace(operation, **changed)
