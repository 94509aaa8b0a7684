"""The gate fails on regressions, on missing figures and on figures that must not be compared, and says which."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.analysis import gate
from bench.documents import Result, Trial
from dataplanes.errors import Usage
from tests.unit.gated import AT, BASE, HERE, KNOBS, judge, matrix, result, rounds, saved, trial


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


def test_scenarios_are_compared_all_together(tmp_path: Path) -> None:
    both = [*rounds("a"), *(msgspec.structs.replace(each, scenario="twin") for each in rounds("b"))]
    third = [msgspec.structs.replace(each, scenario=f"{each.scenario}-2") for each in both]
    told = judge(result(both), result(third), tmp_path)[1]
    assert "the scenarios differ: seed, twin and seed-2, twin-2 (--allow" in told
    assert judge(result(both), result(both), tmp_path)[1].startswith("ok: ")


def test_a_new_knob_alone_makes_no_other_variant(tmp_path: Path) -> None:
    more = KNOBS | {"knobs": {"scheduler": "rr", "masquerade": True}}
    assert judge(result(), result(knobs=more), tmp_path)[1].startswith("ok: ")


def test_a_different_machine_is_told(tmp_path: Path) -> None:
    found, last = judge(result(), result(cpu="faster"), tmp_path)
    assert found.warnings == ["the runs' cpu differ"]
    assert last.endswith("; with a warning")
    assert judge(result(cpu="faster"), result(cpu="faster"), tmp_path)[0].warnings == []


def test_a_rule_that_is_broken_is_the_last_line(tmp_path: Path) -> None:
    slower = [
        t if t.key()[:3] != ("nft-lb", "crr", HERE) else trial("nft-lb", t.round, connections_per_second=950 + t.round)
        for t in BASE
    ]
    _, last = judge(result(), result(slower), tmp_path, "connections_per_second:-2%")
    assert last.startswith("FAILED: nft-lb crr connections_per_second -4.")
    assert judge(result(), result(slower), tmp_path, "connections_per_second:-9%")[1].startswith("ok: ")
    at = [trial("nft-lb", n, "crr", AT, connections_per_second=1000) for n in range(3)]
    half = [trial("nft-lb", n, "crr", AT, connections_per_second=500) for n in range(3)]
    assert judge(result(at), result(half), tmp_path, "connections_per_second:-9%")[1] == (
        "FAILED: nft-lb crr (100 more services) connections_per_second -50.0% [-50.0%, -50.0%]"
    )


def test_a_rule_that_no_figure_can_break_fails(tmp_path: Path) -> None:
    _, last = judge(result(), result(), tmp_path, "megabits_per_second:-5%")
    assert last == "FAILED: --fail-on megabits_per_second: no figure of both documents can break it"
    short = result(rounds("nft-lb", count=2))
    _, last = judge(short, short, tmp_path, "connections_per_second:-5%")
    assert "cannot be judged: 2 rounds are too few for an interval" in last
    assert judge(short, short, tmp_path)[1] == "ok: 1 figure (1 inconclusive)"


def test_documents_of_two_kinds_are_not_compared(tmp_path: Path) -> None:
    new = tmp_path / "new.json"
    with pytest.raises(Usage) as refused:
        judge(result(), matrix(a="pass"), tmp_path)
    assert str(refused.value) == f"{new}: a result and a matrix cannot be compared (give two results or two matrices)"


@pytest.mark.parametrize(
    ("rule", "about"),
    [
        ("install_ms:+1%", "install_ms is about figures, and here are matrices only"),
        ("worse", "worse is about figures, and here are matrices only"),
    ],
)
def test_a_rule_about_no_document_is_refused(rule: str, about: str, tmp_path: Path) -> None:
    path = saved(matrix(a="pass"), tmp_path / "m.json")
    with pytest.raises(Usage) as refused:
        gate.decide_all(path, [path], gate.parse_rules(rule))
    assert str(refused.value) == f"--fail-on {about}"
    figures = saved(result(), tmp_path / "r.json")
    with pytest.raises(Usage, match="detail is about semantics, and here are none"):
        gate.decide_all(figures, [figures], gate.parse_rules("detail"))


def test_folders_are_compared_document_by_document(tmp_path: Path) -> None:
    for side in ("base", "new"):
        saved(result(), tmp_path / side / "result.json")
        saved(matrix(a="pass"), tmp_path / side / "matrix.json")
    base, new = str(tmp_path / "base"), str(tmp_path / "new")
    rules = gate.parse_rules("connections_per_second:-2%, changed")
    found = gate.decide_all(base, [new], rules)
    assert [each.kind for each in found] == ["matrix", "result"]
    assert gate.verdict(found) == "ok: 1 cell; 6 figures (6 same)"
    (tmp_path / "new" / "matrix.json").unlink()
    assert gate.verdict(gate.decide_all(base, [new], rules)) == f"FAILED: matrix.json is not in {new}"
    with pytest.raises(Usage, match="a folder and a document cannot be compared"):
        gate.decide_all(base, [str(tmp_path / "new" / "result.json")])
    (tmp_path / "none").mkdir()
    with pytest.raises(Usage, match="no document to compare with"):
        gate.decide_all(str(tmp_path / "none"), [new])


@pytest.mark.parametrize(("rule", "fails"), [("worse", True), ("better", False), ("inconclusive", False), ("", False)])
def test_a_verdict_fails_if_it_is_named(rule: str, fails: bool, tmp_path: Path) -> None:
    slower = [trial("nft-lb", n, connections_per_second=900 + n) for n in range(5)]
    found, last = judge(result(rounds("nft-lb")), result(slower), tmp_path, rule)
    assert bool(found.failures) is fails
    assert (last.startswith("FAILED: nft-lb crr connections_per_second -9.8% [") and last.endswith("is worse")) is fails


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(Usage, match="cannot read"):
        gate.decide(result(), str(file))
    file.write_text("{}")
    with pytest.raises(Usage, match="neither a result"):
        gate.decide(result(), str(file))
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(result(), schema=3)))
    with pytest.raises(Usage, match="schema is 3, and this version reads 1 and 2"):
        gate.decide(result(), str(file))


@pytest.mark.parametrize(
    ("clock", "noise", "threshold"),
    [
        ("instructions", None, 0.005),
        ("wall", None, 0.03),
        ("sundial", None, 0.03),
        ("wall", 0.25, 0.25),
        ("wall", 0, 0),
    ],
)
def test_noise_is_the_clock_s_or_what_was_asked_for(
    clock: str, noise: float | None, threshold: float, tmp_path: Path
) -> None:
    (tmp_path / "new.json").write_bytes(msgspec.json.encode(result(clock="wall" if clock == "sundial" else clock)))
    found = gate.decide(result(clock=clock), str(tmp_path / "new.json"), allowed=("clock",), noise=noise)
    assert (found.noise, found.kind, found.name) == (threshold, "result", str(tmp_path / "new.json"))


def test_of_two_clocks_the_noisier_counts(tmp_path: Path) -> None:
    found, _ = judge(result(), result(clock="wall"), tmp_path, allow="clock")
    assert found.noise == 0.03
    assert found.warnings == ["the clocks differ: instructions and wall, as allowed"]


def test_each_that_differs_is_told_once(tmp_path: Path) -> None:
    other = result(kernel="6.12", clock="wall", cpu="x", machine="y")
    found, last = judge(result(), other, tmp_path, allow="kernel")
    assert found.warnings == [
        "the kernels differ: 6.1.0 and 6.12, as allowed",
        "the runs' machine differ",
        "the runs' cpu differ",
    ]
    assert found.failures == [
        f"{tmp_path}/new.json: the clocks differ: instructions and wall (--allow clock compares them all the same)"
    ]
    assert last.startswith("FAILED: new.json: the clocks differ")


def test_another_load_is_told(tmp_path: Path) -> None:
    more = msgspec.structs.replace(result(), plan={"trials": [{"connections": 5}, {"connections": 20}]})
    found, _ = judge(result(), more, tmp_path)
    assert found.warnings == ["the runs' loads differ: 10 and 20 connections"]
    without = msgspec.structs.replace(result(), plan={"trials": []})
    assert judge(result(), without, tmp_path)[0].warnings == []


def test_what_is_lacking_is_named_as_far_as_it_goes(tmp_path: Path) -> None:
    """A plane, a workload or a point that is missing as a whole is one entry, and not one for each of its figures."""
    base = [*rounds("a", crr=1.0), *BASE]
    base = [*BASE, *rounds("a", "crr", AT, install_ms=1.0), *rounds("a", "rr", AT, transactions_per_second=1.0)]
    without = [each for each in base if each.dataplane != "a"]
    assert judge(result(base), result(without), tmp_path)[0].failures == [f"a is not in {tmp_path}/new.json"]
    without = [each for each in base if (each.dataplane, each.workload) != ("a", "rr")]
    assert judge(result(base), result(without), tmp_path)[0].failures == [f"a rr is not in {tmp_path}/new.json"]
    found, _ = judge(result(), result([*BASE, *rounds("direct", "crr", AT)]), tmp_path)
    assert found.added == ["direct crr (100 more services)"]
    found, _ = judge(result([*BASE, *rounds("direct", "crr", AT)]), result(), tmp_path)
    assert found.failures == [f"direct crr (100 more services) is not in {tmp_path}/new.json"]
    more = [*BASE, *rounds("b", "crr", AT, install_ms=1.0, add_service_ms=2.0)]
    less = [*BASE, *rounds("b", "crr", AT, install_ms=1.0)]
    assert judge(result(more), result(less), tmp_path)[0].failures == [
        f"b crr (100 more services) add_service_ms is not in {tmp_path}/new.json"
    ]


def test_rounds_that_failed_are_named_with_their_point(tmp_path: Path) -> None:
    at = rounds("nft-lb", "crr", AT)
    broken = [msgspec.structs.replace(t, figures={}, error=f"error {t.round}") if t.round in (1, 3) else t for t in at]
    found, _ = judge(result(at), result(broken), tmp_path)
    assert found.failures == ["nft-lb crr (100 more services) failed in 2 rounds: error 1"]
    cold = [msgspec.structs.replace(t, warmup=True, error="cold") if t.round == 0 else t for t in at]
    assert judge(result(at), result(cold), tmp_path)[0].failures == []
    elsewhere = [*broken, *rounds("nft-lb")]
    assert judge(result(elsewhere), result(elsewhere), tmp_path)[0].failures == []
    both = [msgspec.structs.replace(t, figures={}, error="new") if t.round == 2 else t for t in rounds("nft-lb")]
    assert judge(result(elsewhere), result([*broken, *both]), tmp_path)[0].failures == [
        "nft-lb crr failed in 1 rounds: new"
    ]


def test_plans_without_planes_are_compared(tmp_path: Path) -> None:
    bare = msgspec.structs.replace(result(), plan={})
    assert judge(bare, bare, tmp_path)[1].startswith("ok: ")
    unknown = msgspec.structs.replace(result(), plan={"dataplanes": [{"name": "nft-lb"}]})
    assert judge(result(), unknown, tmp_path)[1].startswith("ok: ")
    assert judge(unknown, result(), tmp_path)[1].startswith("ok: ")
