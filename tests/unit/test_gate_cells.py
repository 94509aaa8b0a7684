"""Two matrices: the gate fails on what is lost, and on matrices that must not be compared, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.analysis import cells
from bench.documents import Matrix, MatrixCell
from scenarios.outcomes import Outcome
from tests.unit.gated import KNOBS, judge, matrix


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


def test_matrices_of_two_scenarios_are_not_compared(tmp_path: Path) -> None:
    of_mine = matrix(a="pass")
    of_mine.plan["scenario"] = "mine"
    _, last = judge(matrix(a="pass"), of_mine, tmp_path)
    assert last.startswith("FAILED: new.json: the scenarios differ: that of each check and mine (--allow scenario ")
    assert judge(matrix(a="pass"), of_mine, tmp_path, allow="scenario")[1].startswith("ok: 1 cell")
    assert judge(of_mine, of_mine, tmp_path)[1] == "ok: 1 cell"


def test_a_kernel_that_one_matrix_lacks_is_not_compared(tmp_path: Path) -> None:
    more = matrix(a="pass")
    more.environment["other"] = {"kernel": "6.12", "clock": "wall"}
    assert judge(matrix(a="pass"), more, tmp_path)[1] == "ok: 1 cell"
    assert judge(more, matrix(a="pass"), tmp_path)[1] == "ok: 1 cell"


@pytest.mark.parametrize(
    ("base", "new", "rule", "last"),
    [
        ("fail", "pass", "gained", "FAILED: k nft-lb a fail -> pass: seen"),
        ("skip", "fail", "changed", "FAILED: k nft-lb a skip -> fail: seen"),
        ("skip", "fail", "gained, detail", "ok: 1 cell (1 changed)"),
    ],
)
def test_a_change_of_semantics_fails_if_it_is_named(
    base: Outcome, new: Outcome, rule: str, last: str, tmp_path: Path
) -> None:
    assert judge(matrix(a=base), matrix(a=new), tmp_path, rule)[1] == last


def observed(detail: str) -> Matrix:
    made = matrix(a="pass")
    made.cells[0].detail = detail
    return made


def test_another_observation_of_the_same_outcome_is_told(tmp_path: Path) -> None:
    before, after = observed("backend saw 10.0.0.7"), observed("backend saw 10.0.0.6")
    found, last = judge(before, after, tmp_path)
    assert (found.failures, last) == ([], "ok: 1 cell (1 detail)")
    last = judge(before, after, tmp_path, "detail")[1]
    assert last == "FAILED: k nft-lb a pass: backend saw 10.0.0.7 -> backend saw 10.0.0.6"


@pytest.mark.parametrize(
    ("base", "new", "same"),
    [
        ("moved from probe11.1 to probe11.2", "moved from probe12.1 to probe12.2", True),
        ("moved from probe11.1 to probe11.2", "moved from probe12.1 to probe13.2", False),
        ("answered by 56:fa:81:78:72:27", "answered by 0a:a8:9b:8e:0f:4f", True),
        ("connects to 10.0.0.2:9047", "connects to 10.0.0.2:9049", True),
        ("sends a datagram to port 9061", "sends a datagram to port 9063", True),
        ("connects to 10.0.0.2:80", "connects to 10.0.0.2:81", False),
        ("10 of 9000 answers", "11 of 9000 answers", False),
    ],
)
def test_what_a_run_chooses_is_no_other_observation(base: str, new: str, same: bool) -> None:
    """Of two published matrices 262 of 1,428 cells had another text, 195 of them for their numbering alone."""
    assert (cells.alike(base) == cells.alike(new)) is same


def test_a_plane_or_a_kernel_that_is_missing_is_one_failure(tmp_path: Path) -> None:
    more = matrix(a="pass", b="pass")
    for kernel, plane in (("k", "ipvs-lb"), ("other", "nft-lb")):
        more.cells += [MatrixCell(kernel, plane, name, "pass", "pass", "seen", 1.0) for name in "ab"]
    found, _ = judge(more, matrix(a="pass"), tmp_path)
    new = tmp_path / "new.json"
    assert found.failures == [f"k nft-lb b is not in {new}", f"k ipvs-lb is not in {new}", f"other is not in {new}"]


def test_a_matrix_s_changes_are_told_one_by_one(tmp_path: Path) -> None:
    base = matrix(a="pass", b="fail", c="skip", d="pass")
    new = matrix(a="fail", b="pass", c="fail", d="pass", e="pass")
    found, last = judge(base, new, tmp_path)
    assert [(each.check, each.base, each.new, each.what, each.detail) for each in found.changes] == [
        ("a", "pass", "fail", "lost", "seen"),
        ("b", "fail", "pass", "gained", "seen"),
        ("c", "skip", "fail", "changed", "seen"),
    ]
    assert {(each.kernel, each.dataplane) for each in found.changes} == {("k", "nft-lb")}
    assert (found.kind, found.cells, found.added) == ("matrix", 4, ["k nft-lb e"])
    assert last == "FAILED: k nft-lb a pass -> fail: seen"
    assert found.tally() == "4 cells (1 gained, 1 lost, 1 changed)"


def test_matrices_by_other_clocks_or_variants_are_not_compared(tmp_path: Path) -> None:
    wall = matrix(a="pass")
    wall.environment["k"]["clock"] = "wall"
    assert judge(matrix(a="pass"), wall, tmp_path)[0].failures == [
        f"{tmp_path}/new.json: the clocks differ: k is instructions and wall (--allow clock compares them all the same)"
    ]
    other = matrix(a="pass")
    other.plan["dataplanes"] = [KNOBS | {"knobs": {"scheduler": "random"}}]
    assert judge(matrix(a="pass"), other, tmp_path)[0].changes == []
    assert "the variants differ: nft-lb has scheduler=rr and random" in judge(matrix(a="pass"), other, tmp_path)[1]
    found, last = judge(matrix(a="pass"), other, tmp_path, allow="variant")
    assert (found.warnings, last) == (
        ["the variants differ: nft-lb has scheduler=rr and random, as allowed"],
        "ok: 1 cell; with a warning",
    )
