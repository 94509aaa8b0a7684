"""Every command that the README shows is run as it stands there, except the tests themselves."""

from __future__ import annotations

import re
import subprocess

import pytest

from dataplanes import catalog
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in re.findall(r"^\$ (.+)$", README, re.MULTILINE) if line != "./run tox"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readmes_commands_work(command: str) -> None:
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_first_commands_output_has_the_readmes_rows() -> None:
    shown = README.split("```console")[1]
    assert {"direct", "ipvs-container"} <= set(re.findall(r"^│ (\S+)", shown, re.MULTILINE))


def test_the_readme_names_every_plane() -> None:
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", README, re.MULTILINE)) == set(catalog.names())
