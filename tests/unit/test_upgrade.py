"""Documents of schema 1 are read for ever: they become today's, report as today's and compare with today's.

`golden/documents/1` has documents and trials that version 0.1 wrote, cut short. `golden/documents/2` has what they
become.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench import api
from bench.analysis import gate
from bench.documents import Result, reading
from bench.outside.store import Store
from bench.report import model, text
from bench.report.answer import answer
from bench.report.page import page
from dataplanes.errors import Usage

GOLDEN = Path(__file__).parent / "golden" / "documents"
NAMES = sorted(path.name for path in (GOLDEN / "1").glob("*.json"))
RESULTS = [name for name in NAMES if name != "matrix.json"]


def read(version: int, name: str) -> Result:
    found = reading.read(str(GOLDEN / str(version) / name))
    assert isinstance(found, Result)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_earlier_document_becomes_todays(name: str) -> None:
    assert api.encoded(reading.read(str(GOLDEN / "1" / name))) == (GOLDEN / "2" / name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_again_is_read_as_it_was(name: str) -> None:
    assert reading.read(str(GOLDEN / "1" / name)) == reading.read(str(GOLDEN / "2" / name))


@pytest.mark.parametrize("name", NAMES)
def test_both_give_the_same_pages(name: str) -> None:
    reports = [model.load([str(GOLDEN / version / name)]) for version in "12"]
    for make in (text.markdown, text.tidy_csv, text.merged, answer, page):
        made = [make(each) for each in reports]
        assert made[0] == made[1]


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("versions", ["12", "21"])
def test_each_compares_with_the_other_figure_by_figure(name: str, versions: str) -> None:
    base, new = (GOLDEN / version / name for version in versions)
    found = gate.decide(reading.read(str(base)), str(new))
    assert (found.failures, found.warnings, found.added) == ([], [], [])
    figures = {
        (t.dataplane, t.workload, t.axes, name) for t in read(2, name).trials if not t.warmup for name in t.figures
    }
    assert len(found.differences) == len(figures)
    assert all(each.base == each.new for each in found.differences)


def test_nothing_that_was_measured_is_lost() -> None:
    """Every number in a trial's `metrics` is a figure or the work it took; a latency of 0 was none."""
    for name in RESULTS:
        old = json.loads((GOLDEN / "1" / name).read_text("utf-8"))
        for trial, today in zip(old["trials"], read(1, name).trials, strict=True):
            nested = {
                f"{key.removesuffix('_us')}_{rank}_us": value
                for key, ranks in trial["metrics"].items()
                if isinstance(ranks, dict) and key.endswith("_us")
                for rank, value in ranks.items()
                if value
            }
            work = {"operations", "elapsed_ns", "connections", "syn_retransmits", "generator_share", "rate"}
            plain = {k: v for k, v in trial["metrics"].items() if not isinstance(v, dict) and k not in work}
            assert today.figures == nested | plain
            assert (today.work.errors, today.work.backends) == (
                trial["metrics"]["errors"],
                trial["metrics"]["backends"],
            )
            assert today.work.elapsed_ns == trial["metrics"].get("elapsed_ns")
            assert today.work.asked_per_second == trial["metrics"].get("rate")


def test_what_is_wrong_in_an_earlier_document_is_told_with_its_own_names(tmp_path: Path) -> None:
    spoilt = json.loads((GOLDEN / "1" / "instructions.json").read_text("utf-8"))
    spoilt["trials"][2]["metrics"]["connect_us"]["p50"] = "fast"
    (tmp_path / "x.json").write_text(json.dumps(spoilt), "utf-8")
    with pytest.raises(Usage, match=r"trials\[2\]\.metrics: connect_us.*Expected `float`, got `str`"):
        reading.read(str(tmp_path / "x.json"))


def test_trials_of_an_earlier_program_are_no_part_of_a_run_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json.trials"
    shutil.copy(GOLDEN / "1" / "cut.json.trials", path)
    identity = json.loads(path.read_bytes().partition(b"\n")[0])
    store = Store(path, identity)  # it would be the same run, but for the program
    store.close(discard=False)
    assert store.trials == []
    assert store.replaced == "from another version of the program, whose trials are no part of this run"
    assert json.loads(path.read_bytes()) == {"kind": "trials", "run": identity, "schema": 2}
