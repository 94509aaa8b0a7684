"""The gate fails on regressions, on missing figures and on figures that must not be compared, and says which."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.analysis import gate
from bench.documents import Interval, Matrix, MatrixCell, Result, Trial
from bench.documents.comparison import Comparison, Difference
from dataplanes.errors import Usage
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
    found = gate.judge(base, str(directory / "new.json"), gate.parse_rules(fail_on), allowed=allowed)
    return found, gate.verdict([found]).replace(f"{directory}/", "")


def test_the_same_is_ok(tmp_path: Path) -> None:
    found, last = judge(result(), result(), tmp_path, "connections_per_second:-2%")
    assert (found.failures, found.warnings, found.added) == ([], [], [])
    assert last == "ok: 6 figures (6 same)"


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ([t for t in BASE if t.dataplane != "ipvs-lb"], "ipvs-lb"),
        ([t for t in BASE if t.workload != "rr"], "nft-lb rr"),
        ([t for t in BASE if t.axes != AT], "nft-lb crr (100 more services)"),
        (
            [t for t in BASE if t.dataplane != "ipvs-lb"] + rounds("ipvs-lb", connections_per_second=1.0),
            "ipvs-lb crr install_ms",
        ),
    ],
)
def test_what_base_has_and_new_lacks_fails_and_is_named_once(left: list[Trial], says: str, tmp_path: Path) -> None:
    found, last = judge(result(), result(left), tmp_path)
    assert last == f"FAILED: {says} is not in new.json"
    assert len(found.failures) == 1
    more, last = judge(result(left), result(), tmp_path)
    assert (more.added, last[:3]) == ([says], "ok:")


def test_nothing_to_compare_fails(tmp_path: Path) -> None:
    for base, new in ((result(), result([])), (result([]), result()), (result([]), result([]))):
        found, last = judge(base, new, tmp_path)
        assert last.startswith("FAILED: ")
        assert "nothing to compare" in found.failures[-1]


def test_rounds_that_failed_are_not_left_out_in_silence(tmp_path: Path) -> None:
    bad = [
        msgspec.structs.replace(t, figures={}, error="2 of 6 failed") if t.round < 2 else t for t in rounds("nft-lb")
    ]
    _, last = judge(result(rounds("nft-lb")), result(bad), tmp_path)
    assert last == "FAILED: nft-lb crr failed in 2 rounds: 2 of 6 failed"
    assert judge(result(bad), result(bad), tmp_path)[1].startswith("ok: ")


@pytest.mark.parametrize(
    ("new", "what", "says"),
    [
        (result(kernel="6.12.1"), "kernel", "the kernels differ: 6.1.0 and 6.12.1"),
        (result(clock="wall"), "clock", "the clocks differ: instructions and wall"),
        (
            result([msgspec.structs.replace(t, scenario="twin") for t in BASE]),
            "scenario",
            "the scenarios differ: seed and twin",
        ),
        (
            result(knobs=KNOBS | {"knobs": {"scheduler": "random", "further": 1}}),
            "variant",
            "the variants differ: nft-lb has scheduler=rr and random",
        ),
    ],
)
def test_what_must_not_be_compared_is_not_unless_allowed(new: Result, what: str, says: str, tmp_path: Path) -> None:
    found, last = judge(result(), new, tmp_path)
    assert last == f"FAILED: new.json: {says} (--allow {what} compares them all the same)"
    assert found.differences == []
    found, last = judge(result(), new, tmp_path, allow=f"{what}, clock")
    assert (found.warnings, found.failures) == ([f"{says}, as allowed"], [])
    assert last == "ok: 6 figures (6 same); with a warning"


def test_a_new_knob_alone_makes_no_other_variant(tmp_path: Path) -> None:
    more = KNOBS | {"knobs": {"scheduler": "rr", "masquerade": True}}
    assert judge(result(), result(knobs=more), tmp_path)[1].startswith("ok: ")


def test_a_different_machine_is_told(tmp_path: Path) -> None:
    found, last = judge(result(), result(cpu="faster"), tmp_path)
    assert found.warnings == ["the runs' cpu differ"]
    assert last.endswith("; with a warning")


def test_a_rule_that_is_broken_is_the_last_line(tmp_path: Path) -> None:
    slower = [
        t if t.key()[:3] != ("nft-lb", "crr", HERE) else trial("nft-lb", t.round, connections_per_second=950 + t.round)
        for t in BASE
    ]
    _, last = judge(result(), result(slower), tmp_path, "connections_per_second:-2%")
    assert last.startswith("FAILED: nft-lb crr connections_per_second -4.")
    assert judge(result(), result(slower), tmp_path, "connections_per_second:-9%")[1].startswith("ok: ")


def test_a_rule_that_no_figure_can_break_fails(tmp_path: Path) -> None:
    _, last = judge(result(), result(), tmp_path, "megabits_per_second:-5%")
    assert last == "FAILED: --fail-on megabits_per_second: no figure of both documents can break it"
    short = result(rounds("nft-lb", count=2))
    _, last = judge(short, short, tmp_path, "connections_per_second:-5%")
    assert "cannot be judged: 2 rounds are too few for an interval" in last
    assert judge(short, short, tmp_path)[1] == "ok: 1 figure (1 inconclusive)"


def test_a_rule_is_broken_by_the_whole_interval_only() -> None:
    def difference(low: float, high: float) -> Difference:
        return Difference(
            "crr", Axes(), "nft-lb", "connections_per_second", 1, 1, Interval((low + high) / 2, low, high), "worse", 5
        )

    (rule,) = gate.parse_rules("connections_per_second:-5%")
    assert rule.broken_by(difference(0.90, 0.94))
    assert not rule.broken_by(difference(0.85, 0.96))
    (rise,) = gate.parse_rules("connect_p99.9_us:+10%")
    assert not rise.broken_by(difference(0.90, 0.94))


@pytest.mark.parametrize("text", ["nonsense", "speed:-5%", "install_ms:5%", "install_ms:-x%"])
def test_a_rule_nobody_can_read_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="cannot read --fail-on"):
        gate.parse_rules(text)


def test_an_allowance_nobody_can_read_is_refused() -> None:
    with pytest.raises(Usage, match=r"cannot read --allow 'cpu'.*kernel, clock, scenario, variant"):
        gate.parse_allowed("kernel,cpu")


def matrix(release: str = "6.1.0", **outcomes: Outcome) -> Matrix:
    cells = [MatrixCell("k", "nft-lb", name, outcome, "pass", "seen", 1.0) for name, outcome in outcomes.items()]
    plan = {"dataplanes": [KNOBS], "checks": [{"name": name} for name in outcomes]}
    return Matrix({}, {"k": {"kernel": release, "clock": "instructions"}}, plan, cells)


@pytest.mark.parametrize(
    ("base", "new", "last"),
    [
        ({"a": "pass"}, {"a": "pass", "b": "fail"}, "ok: 1 cell"),
        ({"a": "fail"}, {"a": "pass"}, "ok: 1 cell (1 gained)"),
        ({"a": "skip"}, {"a": "fail"}, "ok: 1 cell (1 changed)"),
        ({"a": "pass"}, {"a": "fail"}, "FAILED: k nft-lb a pass -> fail: seen"),
        ({"a": "fail"}, {"a": "skip"}, "FAILED: k nft-lb a fail -> skip: seen"),
        ({"a": "skip"}, {"a": "error"}, "FAILED: k nft-lb a skip -> error: seen"),
        ({"a": "pass", "b": "fail"}, {"a": "pass"}, "FAILED: k nft-lb b is not in new.json"),
        ({}, {"a": "pass"}, "FAILED: new.json: nothing to compare: no cell is in both documents"),
    ],
)
def test_a_matrix_fails_by_what_is_lost(
    base: dict[str, Outcome], new: dict[str, Outcome], last: str, tmp_path: Path
) -> None:
    assert judge(matrix(**base), matrix(**new), tmp_path)[1] == last


def test_matrices_of_other_kernels_are_not_compared(tmp_path: Path) -> None:
    _, last = judge(matrix(a="pass"), matrix("6.12.1", a="pass"), tmp_path)
    assert last.startswith("FAILED: new.json: the kernels differ: k is 6.1.0 and 6.12.1")
    assert judge(matrix(a="pass"), matrix("6.12.1", a="pass"), tmp_path, allow="kernel")[1].startswith("ok: 1 cell")


def test_documents_of_two_kinds_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="a result and a matrix"):
        judge(result(), matrix(a="pass"), tmp_path)
    with pytest.raises(Usage, match="--fail-on is about figures"):
        judge(matrix(a="pass"), matrix(a="pass"), tmp_path, "install_ms:+1%")


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(Usage, match="cannot read"):
        gate.judge(result(), str(file))
    file.write_text("{}")
    with pytest.raises(Usage, match="neither a result"):
        gate.judge(result(), str(file))
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(result(), schema=3)))
    with pytest.raises(Usage, match="schema is 3, and this version reads 1 and 2"):
        gate.judge(result(), str(file))
