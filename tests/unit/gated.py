"""Results and matrices as the gate's tests need them, and its judgement of two of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.analysis import gate
from bench.documents import Matrix, MatrixCell, Result, Trial
from bench.documents.comparison import Comparison
from scenarios.axes import Axes
from scenarios.outcomes import Outcome

HERE, AT = Axes(), Axes(services=100)
KNOBS = {"name": "nft-lb", "dataplane": "nft-lb", "variant": "", "knobs": {"scheduler": "rr"}}


def trial(plane: str, number: int, workload: str = "crr", axes: Axes = HERE, **metrics: float) -> Trial:
    metrics = metrics or {"connections_per_second": random.Random(f"{plane}{number}").gauss(1000, 1)}
    return Trial(plane, "seed", workload, number, False, metrics, axes=axes)


def rounds(*arguments: Any, count: int = 5, **more: Any) -> list[Trial]:
    return [trial(arguments[0], number, *arguments[1:], **more) for number in range(count)]


BASE = [*rounds("direct"), *rounds("nft-lb"), *rounds("nft-lb", "rr", transactions_per_second=9.0)]
BASE += [*rounds("nft-lb", "crr", AT), *rounds("ipvs-lb", connections_per_second=1.0, install_ms=3.0)]


def result(trials: Sequence[Trial] = BASE, *, knobs: dict[str, Any] = KNOBS, **environment: str) -> Result:
    facts = {"clock": "instructions", "kernel": "6.1.0"} | environment
    return Result({}, facts, {"trials": [{"connections": 10}], "dataplanes": [knobs]}, list(trials), [])


def judge(
    base: Result | Matrix, new: Result | Matrix, directory: Path, fail_on: str = "", allow: str = ""
) -> tuple[Comparison, str]:
    (directory / "new.json").write_bytes(msgspec.json.encode(new))
    allowed = gate.parse_allowed(allow)
    found = gate.decide(base, str(directory / "new.json"), gate.parse_rules(fail_on), allowed=allowed)
    return found, gate.verdict([found]).replace(f"{directory}/", "")


def matrix(release: str = "6.1.0", **outcomes: Outcome) -> Matrix:
    cells = [MatrixCell("k", "nft-lb", name, outcome, "pass", "seen", 1.0) for name, outcome in outcomes.items()]
    plan = {"dataplanes": [KNOBS], "checks": [{"name": name} for name in outcomes]}
    return Matrix({}, {"k": {"kernel": release, "clock": "instructions"}}, plan, cells)


def saved(document: Result | Matrix, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(document))
    return str(path)
