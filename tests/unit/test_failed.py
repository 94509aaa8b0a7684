"""Failures are printed again at the end of `./run tox`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import failed

PASSED = '<testsuites><testsuite><testcase classname="tests.a" name="test_good"/></testsuite></testsuites>'
FAILED = """<testsuites><testsuite><testcase classname="tests.b" name="test_bad"><failure message="m">first
last</failure></testcase><testcase classname="tests.b" name="test_worse"><error message="set-up"/></testcase>
</testsuite></testsuites>"""


def test_failures_are_told_with_their_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "junit-unit.xml").write_text(PASSED)
    (tmp_path / "junit-lab.xml").write_text(FAILED)
    (tmp_path / "junit-matrix.xml").write_text(FAILED[:40])
    failed.main(tmp_path)
    told = capsys.readouterr().out.splitlines()
    assert told[:-1] == ["lab: tests.b::test_bad", "  first", "  last", "lab: tests.b::test_worse", "  set-up"]
    assert told[-1].startswith("junit-matrix.xml was not finished")
