"""docs/import.md and docs/predict.md, followed word by word as far as no kernel is needed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.unit.conftest import Bench

PAGE = (ROOT / "docs" / "import.md").read_text("utf-8")
STACK = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
FIRST, *THEN = re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_the_import_tells(bench: Bench) -> None:
    Path("stack.yml").write_text(STACK)
    command, *told = FIRST.splitlines()
    done = bench(*shlex.split(command)[2:])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines() == told


@pytest.mark.parametrize("command", re.findall(r"^\$ bench (.+)$", "\n".join(THEN), re.MULTILINE))
def test_the_commands_of_the_page_take_the_scenario(bench: Bench, command: str) -> None:
    """Other planes and kernels than the machine's are not needed to see that they are understood: --help ends first."""
    assert "mine.toml" in command
    assert bench(*shlex.split(command), "--help").exit_code == 0


def test_the_command_of_the_page_about_predictions_answers(bench: Bench) -> None:
    page = (ROOT / "docs" / "predict.md").read_text("utf-8")
    (command,) = re.findall(r"^\$ bench (.+)$", page, re.MULTILINE)
    done = bench(*shlex.split(command))
    assert done.exit_code == 0, done.output
    assert "3,000 services on 12 nodes with 110 containers each:" in done.stdout.splitlines()
