"""docs/extending.md is followed word by word in a copy, and gives a data plane and a check like the others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
_BLOCK = re.compile(r"^```(\w+)(?: (\w+)=(\S+))?(?: before=([^\n]+))?\n(.*?)^```$", re.M | re.S)


@pytest.mark.program
def test_the_page_on_extending_works_as_it_stands(tmp_path: Path) -> None:
    for package in ("bench", "scenarios", "dataplanes"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for language, verb, name, before, body in _BLOCK.findall(PAGE):
        if language == "console":
            for command in re.findall(r"^\$ (.+)$", body, re.M):
                done = subprocess.run(
                    command.replace("python ", f"{sys.executable} ", 1),
                    shell=True,
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=300,
                    stdin=subprocess.DEVNULL,
                )
                assert done.returncode == 0, done.stdout + done.stderr
                assert "ipt-container" in done.stdout + done.stderr
        elif verb == "file":
            (tmp_path / name).write_text(body, "utf-8")
        else:
            _insert(tmp_path / name, before, body)


def _insert(path: Path, before: str, body: str) -> None:
    text = path.read_text("utf-8")
    mark = before.strip('"').replace("\\n", "\n")
    at = len(text) if before == "END" else text.index(mark)
    path.write_text(text[:at] + body + text[at:], "utf-8")
