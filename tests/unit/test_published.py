"""Every figure that the repository shows comes from results/. The pages are generated again, and are the same."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from bench.documents import Goal, TrialPlan
from bench.documents.agreement import MOST, Agreement, figure
from bench.outside.publish import STEPS, documents
from bench.report import answer, clocks, model, pages
from bench.report.words import CHINESE
from dataplanes import catalog
from dataplanes.selection import split
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def report() -> model.Report:
    return model.load(documents(model.PUBLISHED))


def test_the_data_set_is_whole() -> None:
    missing = [each.document for each in STEPS if not (model.PUBLISHED / each.document).exists()]
    assert not missing, "bench publish makes what is missing"


def test_the_pages_are_the_data_sets(report: model.Report) -> None:
    for path, made in pages.pages(ROOT, report).items():
        assert path.read_text("utf-8") == made, f"bench publish writes {path.name}"


def test_the_chinese_answer_leaves_nothing_in_english(report: model.Report) -> None:
    told = answer.answer(report, CHINESE)
    english = {line for line in answer.answer(report).splitlines() if re.search("[a-z]{3}", line)}
    data = re.compile(
        r"\| *`?(direct|ipvs-|nft-|ebpf-|kube-|moby-)|- \S+\.json: |### (ipvs|nft)$"
    )  # figures, and the commands that made them
    assert [line for line in told.splitlines() if line in english and not data.match(line)] == []
    assert all(CHINESE.checks.get(check) for check in report.checks())
    own = {line for line in answer.choice(report) if re.search("[a-z]{3}", line)}
    assert [line for line in answer.choice(report, CHINESE) if line in own] == []


def test_the_data_set_has_every_plane_on_every_kernel_as_expected(report: model.Report) -> None:
    assert list(dict.fromkeys(split(name)[0] for name in report.planes())) == catalog.names()
    assert [cell for cell in report.cells() if cell.outcome != cell.expected] == []
    assert len(report.kernels()) == 2


def test_ratios_by_time_are_as_precise_as_was_asked_or_as_many_rounds_as_may_be_were_done(report: model.Report) -> None:
    """A machine whose own kernel can run no plane leaves the document out."""
    asked = [each.arguments for each in STEPS if each.by_time and "--precision" in each.arguments]
    (precision,) = {float(arguments[arguments.index("--precision") + 1]) for arguments in asked}
    for _, result in report.results:
        if result.environment["clock"] == "wall":
            done = Agreement(Goal("wall", precision / 100), [figure(each) for each in result.trials if not each.warmup])
            for row in (each for each in result.summary if each.workload == "crr"):
                planned = TrialPlan(row.dataplane, row.n + 1, False, 1, row.workload, row.axes)
                assert done.reached(planned) or row.n == MOST["wall"], row.dataplane


def test_the_pages_count_the_semantics_there_are(report: model.Report) -> None:
    skipped = {
        check for check in report.checks() if all(c.outcome == "skip" for c in report.cells() if c.check == check)
    }
    every, observed = len(report.checks()), len(report.checks()) - len(skipped)
    assert f"of {observed} observed semantics" in _words("README.md")
    page = _words("docs/matrix.md")
    assert f"has {every} semantics" in page
    assert f": {observed} are observed on every plane that they apply to, {len(skipped)} are named and skipped" in page
    assert f"{observed} 项被观测" in (ROOT / "README.zh.md").read_text("utf-8")


def test_a_page_tells_how_far_the_clocks_agree(report: model.Report) -> None:
    found = clocks.clocks(report)
    assert found
    assert found.correlation
    assert found.largest.cause, "its cause is to be found, and told in questions.toml"
    page = _words("docs/measuring.md")
    assert f"correlate with {found.correlation:.2f}" in page
    assert f"no ratio differs by more than {math.ceil(abs(found.largest.difference) * 100)} %" in page


def _words(name: str) -> str:
    return " ".join((ROOT / name).read_text("utf-8").split())


def test_every_picture_the_pages_show_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "README.zh.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8")):
            assert (Path(page).parent / target).exists(), f"{page.name}: {target}"
