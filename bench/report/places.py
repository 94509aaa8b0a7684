"""The comparison of places: like for like, against what Docker has shipped, and the best that each place can do.

It follows from the documents alone. It has no presentation, and no plane has a name here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from bench.documents import Interval
from bench.documents.parts import Named
from bench.report.model import Report, cost
from bench.report.questions import REFERENCE
from dataplanes.selection import balances, split
from scenarios.axes import Axes
from scenarios.clauses import LEVELS, Level, level


class Standing(Struct, frozen=True):
    """A plane held against another one: the semantics it lost and gained, by level."""

    plane: str
    base: str
    lost: dict[Level, list[str]]
    gained: dict[Level, list[str]]

    @property
    def effect(self) -> str:
        """Whether the plane has the effect of the other one. What is only visible does not count."""
        if self.lost["core"]:
            return "not the same effect"
        return "nearly the same effect" if self.lost["extended"] else "the same effect"

    def weight(self) -> tuple[int, ...]:
        """Return how much is lost, and then how little is gained: the less, the better."""
        lost = tuple(len(self.lost[each]) for each in LEVELS)
        return (*lost, -sum(map(len, self.gained.values())))


def standing(report: Report, plane: str, base: str = REFERENCE) -> Standing | None:
    """Hold a plane against another one, or return None if no check was observed on both."""
    same, more, less = report.against(plane, base)
    if not (same or more or less):
        return None
    return Standing(plane, base, by_level(less), by_level(more))


def by_level(checks: Sequence[str]) -> dict[Level, list[str]]:
    """Sort checks by their level."""
    return {each: [check for check in checks if level(check) == each] for each in LEVELS}


# -- like for like -----------------------------------------------------------------------------------------------------


class Twin(Struct, frozen=True):
    """A plane, and the one that is programmed alike at the place that places are compared with."""

    plane: str
    base: str
    cost: float
    ratio: Interval | None  # of the costs of a connection
    standing: Standing | None
    knobs: dict[str, tuple[object, object]]  # those that differ, because the places do: there, and here


class Family(Struct, frozen=True):
    """The planes of one mechanism that differ by their places, in each way to program it."""

    mechanism: str
    programmings: list[str]  # the variants, each with the knobs that were changed
    twins: dict[tuple[str, str], Twin]  # by data plane and programming
    base: str  # the data plane that the others are compared with

    def planes(self) -> list[str]:
        """Return the data planes, without their variants."""
        return list(dict.fromkeys(plane for plane, _ in self.twins))

    def of(self, plane: str) -> list[Twin]:
        """Return a data plane in every programming."""
        return [twin for (name, _), twin in self.twins.items() if name == plane]


def families(report: Report, at: Axes | None = None) -> list[Family]:
    """Return the families with planes at two places or more, measured at a point: by default the scenario's own.

    Planes are programmed alike if they have the same mechanism, the same eBPF objects, the same variant, and the same
    changes to it. The others are compared with the plane at the reference's place, or else with the first one.
    """
    costs = _costs(report, at)
    grouped: dict[tuple[str, frozenset[str]], dict[str, list[str]]] = {}
    for name in costs:
        told = report.told(name)
        if balances(name) and told.mechanism:
            grouped.setdefault((told.mechanism, _objects(told)), {}).setdefault(split(name)[1], []).append(name)
    found = [_family(report, mechanism, each, costs, at) for (mechanism, _), each in grouped.items()]
    return [each for each in found if each]


def _family(
    report: Report, mechanism: str, programmings: dict[str, list[str]], costs: dict[str, float], at: Axes | None
) -> Family | None:
    """Return a family, without the programmings that only one place or not the base has, or None if none is left."""
    several = {
        each: {split(name)[0]: name for name in names}
        for each, names in programmings.items()
        if len({report.placement(name) for name in names}) > 1
    }
    if not several:
        return None
    order = list(dict.fromkeys(split(name)[0] for name in report.planes()))
    placed = {plane: report.placement(name) for names in several.values() for plane, name in names.items()}
    planes = sorted(placed, key=order.index)
    base = next((plane for plane in planes if placed[plane] == report.placement(REFERENCE)), planes[0])
    compared = [each for each, names in several.items() if base in names]
    twins = {
        (plane, each): _twin(report, several[each][plane], several[each][base], costs[several[each][plane]], at)
        for plane in planes
        for each in compared
        if plane in several[each]
    }
    return Family(mechanism, compared, twins, base)


def _twin(report: Report, plane: str, base: str, cost: float, at: Axes | None) -> Twin:
    ratio = report.relative(plane, base, at=at) if plane != base else Interval(1.0)
    return Twin(plane, base, cost, ratio, standing(report, plane, base), _differing(report, plane, base))


def _differing(report: Report, plane: str, base: str) -> dict[str, tuple[object, object]]:
    there, here = report.told(base).knobs, report.told(plane).knobs
    return {knob: (there[knob], here[knob]) for knob in there if knob in here and there[knob] != here[knob]}


def _objects(told: Named) -> frozenset[str]:
    """Return the eBPF objects of a plane. Two planes with different programs are not programmed alike."""
    return frozenset(need.name for need in told.needs if need.kind == "compiled")


# -- the best of each place --------------------------------------------------------------------------------------------


class Best(Struct, frozen=True):
    """A place with the cheapest plane that has every core semantic, and the planes that are cheaper and have not."""

    placement: str
    plane: str  # "" if none has every core semantic
    cheaper: dict[str, list[str]]  # each with the core semantics that it lacks


def best(report: Report) -> list[Best]:
    """Return the best plane of each place. A plane on which no core check was observed is not considered."""
    costs = _costs(report)
    places: dict[str, list[str]] = {}
    for name in sorted(costs, key=costs.__getitem__):
        if balances(name) and _observed(report, name):
            places.setdefault(report.placement(name), []).append(name)
    order = list(dict.fromkeys(report.placement(name) for name in report.planes() if balances(name)))
    return [_best(report, each, places[each]) for each in sorted(places, key=order.index)]


def _best(report: Report, placement: str, names: Sequence[str]) -> Best:
    cheaper: dict[str, list[str]] = {}
    for name in names:
        lacking = lacks(report, name)
        if not lacking:
            return Best(placement, name, cheaper)
        cheaper[name] = lacking
    return Best(placement, "", cheaper)


def lacks(report: Report, plane: str, wanted: Level = "core") -> list[str]:
    """Return the checks of a level that do not hold on a plane, on some kernel."""
    found = (cell for cell in report.cells() if cell.dataplane == plane and cell.outcome == "fail")
    return list(dict.fromkeys(cell.check for cell in found if level(cell.check) == wanted))


def _observed(report: Report, plane: str) -> bool:
    return any(cell.dataplane == plane and level(cell.check) == "core" for cell in report.cells())


def _costs(report: Report, at: Axes | None = None) -> dict[str, float]:
    """Return the cost of a connection on every plane that was measured at a point."""
    rows = report.rows("crr", at)
    clock = next((clock for _, clock in rows.values()), "")  # costs by two clocks cannot be compared
    found = {name: cost(row) for name, (row, measured_by) in rows.items() if measured_by == clock}
    return {name: each.value for name, each in found.items() if each}


# -- needs -------------------------------------------------------------------------------------------------------------


class Needs(Struct, frozen=True):
    """What planes need of a node: parts of the kernel, programs, and settings that they change in its namespaces."""

    planes: list[str]
    kernel: list[str]  # modules, and options that are no module
    programs: list[str]
    objects: list[str]  # eBPF
    settings: list[str]


def needs(report: Report) -> list[Needs]:
    """Return what every plane needs. Planes that need the same are together."""
    grouped: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for name in report.planes():
        told = report.told(name)
        if not told.needs:
            continue
        kernel = tuple(dict.fromkeys(each.module or each.config for each in told.needs if each.kind == "feature"))
        programs = tuple(each.name for each in told.needs if each.kind in ("tool", "package"))
        objects = tuple(each.name for each in told.needs if each.kind == "compiled")
        key = (kernel, programs, objects, tuple(_changed(report, name)))
        grouped.setdefault(key, []).append(name)
    return [Needs(planes, *map(list, each)) for each, planes in grouped.items()]


def _changed(report: Report, plane: str) -> Iterator[str]:
    """Yield the settings in which a plane's namespaces differ from the direct path's, by kind of namespace."""
    for kind, found in report.settings(plane).items():
        if found:
            yield f"{kind}: " + ", ".join(f"{name}={value}" for name, value in found.items())
