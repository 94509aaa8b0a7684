"""`bench compare`: decide whether NEW keeps what BASE has. It compares results (compare.py) or matrices (cells.py).

A comparison fails if the documents must not be compared, if nothing can be compared, if BASE has a document, a figure
or a cell that NEW lacks, if a semantic is lost, or if a rule of --fail-on is broken. A document, a figure or a cell
that only NEW has is told, and is no failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from bench.analysis import cells, compare
from bench.documents import Matrix, Result, reading
from bench.documents.agreement import NOISE
from bench.documents.comparison import VERDICTS, CellChange, Comparison, Difference, at
from bench.documents.metrics import METRICS
from dataplanes.errors import Usage

_RULE = re.compile(r"(\w+(?:\.\d+\w*)?):([+-])(\d+(?:\.\d+)?)%\Z")
_ROUNDS = 3
"""A rule is about the interval, and fewer rounds than these have none."""
ALLOWED = ("kernel", "clock", "scenario", "variant")
"""Two documents must agree in these, unless --allow names them."""
_TOLD = ("machine", "cpu", "cpus", "mitigations", "versions", "sysctl", "cmdline")
"""Other facts of the environment that may be the reason for a difference. They make a warning."""
_FORM = f"METRIC:-5%, METRIC:+5% or one of {', '.join(VERDICTS)}; metrics: {', '.join(METRICS)}"


class Rule(Struct, frozen=True):
    """`METRIC:-5%`: the comparison fails if the whole interval lies beyond this change, in its direction."""

    metric: str
    change: float  # -0.05
    about: Literal["result"] = "result"

    def broken_by(self, difference: Difference | CellChange) -> bool:
        """Return True if the whole interval is beyond the rule's change."""
        if isinstance(difference, CellChange) or difference.metric != self.metric or difference.rounds < _ROUNDS:
            return False
        ratio = difference.ratio
        if ratio is None or ratio.low is None or ratio.high is None:  # a figure of zero has changed to another value
            return self.change > 0 and difference.verdict in ("better", "worse")
        return ratio.high < 1 + self.change if self.change < 0 else ratio.low > 1 + self.change


class OnVerdict(Struct, frozen=True):
    """`worse`, `changed`: the comparison fails if a figure or a cell gets this verdict."""

    verdict: str

    @property
    def about(self) -> Literal["result", "matrix"]:
        """The kind of document that can break it."""
        return VERDICTS[self.verdict]

    def broken_by(self, difference: Difference | CellChange) -> bool:
        """Return True if this is its verdict."""
        return self.verdict == (difference.verdict if isinstance(difference, Difference) else difference.what)


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Return the last line of the output: `ok: ...`, or `FAILED: ...` with the first failure."""
    failures = [failure for each in comparisons for failure in each.failures]
    if failures:
        return f"FAILED: {failures[0]}" + (f", and {len(failures) - 1} more" if failures[1:] else "")
    warned = sum(len(each.warnings) for each in comparisons)
    told = "; ".join(
        f"only in {each.name}: {each.added[0]}" if each.uncompared() else each.tally()
        for each in sorted(comparisons, key=Comparison.uncompared)
    )
    return f"ok: {told}" + (f"; with {warned} warnings" if warned > 1 else "; with a warning" if warned else "")


def parse_rules(text: str) -> list[Rule | OnVerdict]:
    """Parse the rules of `--fail-on`. Raises Usage."""
    rules: list[Rule | OnVerdict] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        match = _RULE.match(part)
        if part in VERDICTS:
            rules.append(OnVerdict(part))
        elif match and match[1] in METRICS:
            rules.append(Rule(match[1], float(match[2] + match[3]) / 100))
        else:
            raise Usage(f"cannot read --fail-on {part!r}", fix=_FORM)
    return rules


def parse_allowed(text: str) -> frozenset[str]:
    """Parse the names of `--allow`. Raises Usage."""
    names = frozenset(filter(None, (each.strip() for each in text.split(","))))
    if unknown := sorted(names.difference(ALLOWED)):
        raise Usage(f"cannot read --allow {unknown[0]!r}", fix=f"one or more of: {', '.join(ALLOWED)}")
    return names


def decide_all(
    base: str,
    new: Sequence[str],
    rules: Sequence[Rule | OnVerdict] = (),
    *,
    allowed: Collection[str] = (),
    noise: float | None = None,
) -> list[Comparison]:
    """Compare each NEW with BASE: two documents, or two folders, of which those with the same name are compared.

    Raises Usage if one cannot be read or is of the other kind, or if a rule is about no document.
    """
    decided = []
    for path in new:
        if os.path.isdir(base) != os.path.isdir(path):
            raise Usage("a folder and a document cannot be compared", where=path, fix="give two folders or two files")
        decided += [
            decide(reading.read(known), found, rules, allowed=allowed, noise=noise)
            if os.path.exists(found)
            else Comparison(found, _kind(reading.read(known)), failures=[f"{Path(known).name} is not in {path}"])
            for known, found in (_pairs(base, path) if os.path.isdir(base) else [(base, path)])
        ]
        for name in sorted(_names(path) - _names(base)):
            decided.append(Comparison(path, _kind(reading.read(os.path.join(path, name))), added=[name]))
    compared = {each.kind for each in decided if not each.uncompared()}
    for rule in rules:
        if rule.about not in compared:
            told = "figures, and here are matrices only" if rule.about == "result" else "semantics, and here are none"
            raise Usage(f"--fail-on {rule.verdict if isinstance(rule, OnVerdict) else rule.metric} is about {told}")
    return decided


def _kind(document: Result | Matrix) -> Literal["result", "matrix"]:
    return "matrix" if isinstance(document, Matrix) else "result"


def _names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).glob("*.json")}


def _pairs(base: str, new: str) -> list[tuple[str, str]]:
    names = sorted(_names(base))
    if not names:
        raise Usage("no document to compare with", where=base, fix="give a folder with what -o x.json wrote")
    return [(os.path.join(base, name), os.path.join(new, name)) for name in names]


def decide(
    base: Result | Matrix,
    path: str,
    rules: Sequence[Rule | OnVerdict] = (),
    *,
    allowed: Collection[str] = (),
    noise: float | None = None,
) -> Comparison:
    """Compare the document in a file with BASE. Raises Usage if it cannot be read, or if it is the other kind."""
    new = reading.read(path)
    if isinstance(base, Matrix) and isinstance(new, Matrix):
        return _matrices(path, base, new, rules, allowed)
    if isinstance(base, Result) and isinstance(new, Result):
        return _results(path, base, new, rules, allowed, noise)
    raise Usage("a result and a matrix cannot be compared", where=path, fix="give two results or two matrices")


def _results(
    path: str,
    base: Result,
    new: Result,
    rules: Sequence[Rule | OnVerdict],
    allowed: Collection[str],
    noise: float | None,
) -> Comparison:
    clocks = {str(each.environment.get("clock")) for each in (base, new)}
    threshold = max(NOISE.get(clock, 0.03) for clock in clocks) if noise is None else noise
    made = Comparison(path, "result", threshold, warnings=_warnings(base, new))
    if not _comparable(made, _unlike(base, new), allowed):
        return made
    made.differences = compare.compare(base, new, threshold)
    known, found = compare.figures(base), compare.figures(new)
    made.failures += _failed(base, new)
    made.failures += [f"{each} is not in {path}" for each in _lacking(known, found)]
    made.added = _lacking(found, known)
    if not made.differences:
        made.failures.append(f"{path}: nothing to compare: no figure is in both documents")
    made.failures += [line for rule in rules for line in _broken(rule, made.differences)]
    return made


def _failed(base: Result, new: Result) -> Iterator[str]:
    """Name the series in which rounds of NEW failed and none of BASE did. The other rounds alone would look healthy."""
    before = {trial.key()[:3] for trial in base.trials if trial.error and not trial.warmup}
    errors: dict[tuple[object, ...], list[str]] = {}
    for trial in new.trials:
        if trial.error and not trial.warmup and trial.key()[:3] not in before:
            errors.setdefault((trial.dataplane, at(trial.workload, trial.axes.label())), []).append(trial.error)
    for (plane, workload), told in errors.items():
        yield f"{plane} {workload} failed in {len(told)} rounds: {told[0]}"


def _broken(rule: Rule | OnVerdict, differences: Sequence[Difference]) -> Iterator[str]:
    if isinstance(rule, OnVerdict):
        yield from (f"{each.name()} {each.change()} is {each.verdict}" for each in differences if rule.broken_by(each))
        return
    about = [each for each in differences if each.metric == rule.metric]
    if not about:
        yield f"--fail-on {rule.metric}: no figure of both documents can break it"
    for each in about:
        if each.rounds < _ROUNDS:
            yield f"{each.name()} cannot be judged: {each.rounds} rounds are too few for an interval"
        elif rule.broken_by(each):
            yield f"{each.name()} {each.change()}"


def _lacking(known: Iterable[compare.Key], found: Iterable[compare.Key]) -> list[str]:
    """Name what is known and not found. A missing plane is one entry, and so is a workload, a point, a metric."""
    named = [(plane, workload, point.label(), metric) for workload, point, plane, metric in found]
    there = {key[:depth] for key in named for depth in range(1, 5)}
    lacking: dict[str, None] = {}
    for workload, point, plane, metric in known:
        key = (plane, workload, point.label(), metric)
        depth = next((depth for depth in range(1, 5) if key[:depth] not in there), None)
        if depth:
            point_of = at(workload, key[2] if depth > 2 else "")
            lacking[" ".join((plane, point_of, metric)[: 1 if depth == 1 else 3 if depth == 4 else 2])] = None
    return list(lacking)


def _matrices(
    path: str, base: Matrix, new: Matrix, rules: Sequence[Rule | OnVerdict], allowed: Collection[str]
) -> Comparison:
    made = Comparison(path, "matrix")
    if not _comparable(made, _unlike_matrices(base, new), allowed):
        return made
    known, found = cells.by_key(base), cells.by_key(new)
    made.changes, made.unchanged = cells.compared(base, new)
    made.cells = len(made.changes) + len(made.unchanged)
    made.failures = [f"{each} is not in {path}" for each in _lacking_cells(known, found)]
    made.failures += [
        f"{each.name()} {each.change()}"
        for each in made.changes
        if each.what == "lost" or any(rule.broken_by(each) for rule in rules)
    ]
    made.added = _lacking_cells(found, known)
    if not made.cells:
        made.failures.append(f"{path}: nothing to compare: no cell is in both documents")
    return made


def _lacking_cells(known: Iterable[cells.CellKey], found: Iterable[cells.CellKey]) -> list[str]:
    """Name what is known and not found. A missing kernel is one entry, and so is a plane on a kernel."""
    there = {key[:depth] for key in found for depth in (1, 2, 3)}
    shortest = (next((key[:depth] for depth in (1, 2, 3) if key[:depth] not in there), ()) for key in known)
    return list(dict.fromkeys(" ".join(each) for each in shortest if each))


def _comparable(made: Comparison, unlike: dict[str, str], allowed: Collection[str]) -> bool:
    """Return True if every difference is allowed. An allowed one becomes the first warning, another a failure."""
    made.warnings[:0] = [f"{told}, as allowed" for what, told in unlike.items() if what in allowed]
    made.failures += [
        f"{made.name}: {told} (--allow {what} compares them all the same)"
        for what, told in unlike.items()
        if what not in allowed
    ]
    return not made.failures


def _unlike(base: Result, new: Result) -> dict[str, str]:
    """Tell in what two results differ so that their figures do not measure the same thing."""
    found = {
        name: f"the {name}s differ: {base.environment.get(name)} and {new.environment.get(name)}"
        for name in ("kernel", "clock")
        if base.environment.get(name) != new.environment.get(name)
    }
    worlds = [sorted({trial.scenario for trial in each.trials}) for each in (base, new)]
    if all(worlds) and worlds[0] != worlds[1]:
        found["scenario"] = f"the scenarios differ: {', '.join(worlds[0])} and {', '.join(worlds[1])}"
    return found | _variants(base.plan, new.plan)


def _unlike_matrices(base: Matrix, new: Matrix) -> dict[str, str]:
    """Tell the same of two matrices, in which each kernel has its own environment."""
    found = {}
    for name in base.environment.keys() & new.environment.keys():
        for what in ("kernel", "clock"):
            values = [each.environment[name].get(what) for each in (base, new)]
            if values[0] != values[1]:
                found[what] = f"the {what}s differ: {name} is {values[0]} and {values[1]}"
    worlds = [each.scenario() for each in (base, new)]
    if worlds[0] != worlds[1]:
        told = (each or "that of each check" for each in worlds)
        found["scenario"] = f"the scenarios differ: {' and '.join(told)}"
    return found | _variants(base.plan, new.plan)


def _variants(base: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Tell the first plane whose name means other knobs. A knob that one document lacks is new, and is ignored."""
    known, found = ({each["name"]: each for each in plan.get("dataplanes", [])} for plan in (base, new))
    for name in known.keys() & found.keys():
        knobs = [each[name].get("knobs", {}) for each in (known, found)]
        for knob in sorted(knobs[0].keys() & knobs[1].keys()):
            if knobs[0][knob] != knobs[1][knob]:
                return {"variant": f"the variants differ: {name} has {knob}={knobs[0][knob]} and {knobs[1][knob]}"}
    return {}


def _warnings(base: Result, new: Result) -> list[str]:
    """Tell the other differences that may be the reason for a changed figure."""
    told = [f"the runs' {key} differ" for key in _TOLD if base.environment.get(key) != new.environment.get(key)]
    loads = [trials[-1].get("connections") for each in (base, new) if (trials := each.plan.get("trials"))]
    differ = len(loads) == 2 and loads[0] != loads[1]
    return told + ([f"the runs' loads differ: {loads[0]} and {loads[1]} connections"] if differ else [])


def differing(base: Result, new: Result) -> list[str]:
    """Tell in what two runs differ besides their figures: the program, the kernel, the machine, the plan."""
    programs = [str(each.tool.get("revision") or each.tool.get("version", "")) for each in (base, new)]
    told = [f"the programs differ: {programs[0]} and {programs[1]}"] if programs[0] != programs[1] else []
    return [*told, *_unlike(base, new).values(), *_warnings(base, new)]
