"""The Python interface: documents as typed objects and tidy rows, and the page that shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import api
from bench.documents import tidy
from dataplanes.errors import BenchError, Prerequisite, Usage
from dataplanes.selection import split
from tests.conftest import ROOT
from tests.unit.conftest import Bench

RESULTS = ROOT / "results"


def test_a_result_is_a_row_per_figure_and_round() -> None:
    measured = api.load(RESULTS / "readme" / "first.json")
    assert isinstance(measured, api.Measured)
    rows = measured.rows()
    assert {tuple(row) for row in rows} == {tidy.FIGURE}
    rates = [row for row in rows if row["metric"] == "connections_per_second"]
    assert len(rates) == sum(1 for trial in measured.result.trials if not trial.warmup)
    assert {row["metric"]: row["unit"] for row in rows} == measured.result.units
    assert measured.result.units["connections_per_second"] == api.METRICS["connections_per_second"].unit == "1/s"
    assert {row["clock"] for row in rates} == {"instructions"}


def test_a_matrix_is_a_row_per_cell() -> None:
    observed = api.load(RESULTS / "matrix.json")
    assert isinstance(observed, api.Observed)
    rows = observed.rows()
    assert len(rows) == len(observed.matrix.cells)
    assert {tuple(row) for row in rows} == {tidy.CELL}
    assert observed.unexpected() == []


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    measured = api.load(RESULTS / "readme" / "first.json")
    measured.save(tmp_path / "again.json")
    again = api.load(tmp_path / "again.json")
    assert isinstance(again, api.Measured)
    assert again.rows() == measured.rows()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("nft-lb", ("nft-lb", "")),
        ("nft-lb+scheduler=random", ("nft-lb", "scheduler=random")),
        ("ipvs-container@1.13+conn_reuse_mode=1", ("ipvs-container", "1.13+conn_reuse_mode=1")),
    ],
)
def test_a_name_has_a_plane_and_a_variant(name: str, parts: tuple[str, str]) -> None:
    assert split(name) == parts


def test_a_wrong_request_is_refused_before_anything_is_created() -> None:
    with pytest.raises(Usage, match="unknown"):
        api.plan(["ipvs-nowhere"])
    with pytest.raises(Usage, match="services"):
        api.plan("nft-lb", axes={"services": [-1]})
    with pytest.raises(BenchError):
        api.observe("nft-lb", "no-such-check")


def test_a_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Prerequisite, match=r"vip-bench\[frames\]"):
        api.load(RESULTS / "readme" / "first.json").frame()


def test_what_is_measured_and_observed_is_rows(bench: Bench) -> None:
    measured = api.measure(["nft-lb"], kernel="debian-6.12", rounds=3, connections=200, jobs=1)
    assert {(row["plane"], row["round"]) for row in measured.rows()} == {
        (plane, number) for plane in ("direct", "nft-lb") for number in (1, 2, 3)
    }
    heard: list[str] = []
    observed = api.observe(
        "nft-lb", "other-node", kernel="debian-6.12", clock="wall", on_event=lambda kernel, event: heard.append(kernel)
    )
    assert {row["outcome"] for row in observed.rows()} == {"pass", "fail"}
    assert observed.unexpected() == []
    assert set(heard) == {"debian-6.12"}
    measured.save("measured.json")
    assert isinstance(api.load("measured.json"), api.Measured)


def test_the_pages_example_runs() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ipvs-container: [\d,]+ instructions with \d+ services more, \d+\.\d+ times", done.stdout, re.M)


def test_importing_it_takes_nothing_heavy_along() -> None:
    program = "import sys; from bench import api; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"click", "rich", "numpy", "scipy", "pandas", "jinja2"} & set(done.stdout.split())
