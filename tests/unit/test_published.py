"""Every figure the repository shows comes from results/: what is written is written again, and is the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.publish import STEPS, documents
from bench.report import answer, model, pages
from dataplanes import catalog
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def report() -> model.Report:
    return model.load(documents(model.PUBLISHED))


def test_the_data_set_is_whole() -> None:
    missing = [step.document for step in STEPS if not (model.PUBLISHED / step.document).exists()]
    assert not missing, "bench publish makes what is missing"


@pytest.mark.parametrize(("page", "names"), [("README.md", None), ("README.zh.md", pages.CHINESE)])
def test_the_readmes_table_is_the_data_sets(report: model.Report, page: str, names: dict[str, str] | None) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert pages.replaced(text, pages.section(report, names)) == text


def test_chart_and_answer_are_the_data_sets(report: model.Report) -> None:
    drawn = (ROOT / "docs" / "rate.svg").read_text("utf-8")  # another matplotlib draws otherwise, with the same words
    for verdict in report.verdicts():
        assert verdict.ratio
        assert f">{verdict.dataplane}<" in drawn
        assert f">{verdict.ratio.value:.3f}<" in drawn
    assert (ROOT / "docs" / "answer.md").read_text("utf-8") == answer.answer(report)


def test_the_data_set_has_every_plane_on_every_kernel_as_expected(report: model.Report) -> None:
    assert report.planes() == list(catalog.SUMMARIES)
    assert [cell for cell in report.cells() if cell.outcome != cell.expected] == []
    assert len(report.kernels()) == 2


def test_every_picture_the_pages_show_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "README.zh.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (Path(page).parent / target).exists(), f"{page.name}: {target}"
