"""The tool `service` of a lab's shell: its words come to the lab, and the answer comes back."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

from bench.inside.changes import USAGE, Changes
from bench.inside.shell import wait
from scenarios.lab import Lab


def test_the_tool_works_in_a_directory_of_any_name(tmp_path: Path) -> None:
    directory = tmp_path / "it's a $HOME"
    directory.mkdir()
    published: list[bool] = []
    with Changes(cast(Lab, None), str(directory), lambda: published.append(True)) as changes:
        argv = [str(directory / "service"), "melt", "my-web"]
        process = subprocess.Popen(argv, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        with process.stderr:
            assert wait(process, changes) == 2
            assert process.stderr.read() == f"service: no such change: 'melt' ({USAGE})\n"
    assert published == [True]
    assert sorted(each.name for each in directory.iterdir()) == ["changes", "service"]
