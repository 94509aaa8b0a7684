"""Every command of the README, and of the pages that it was too long for, is run as it stands there.

They are run where a user has the files that they name. The tests themselves are left out. Where a page shows the last
lines of a command's output, the command ends in them.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dataplanes import catalog
from tests.conftest import ROOT
from tests.program.pages import STACK, shown

README, CHINESE, PLANES, *MORE = (
    (ROOT / name).read_text("utf-8")
    for name in (
        *("README.md", "README.zh.md", "docs/planes.md"),
        *("docs/commands.md", "docs/matrix.md", "docs/measuring.md"),
    )
)
COMMANDS = {command: output for page in (README, *MORE) for command, output in shown(page) if command != "./run tox"}
OF_README = [command for command, _ in shown(README)]
"""The commands of the other pages are run at night."""
_LAST = re.compile(r"^\.\.\.\n", re.M)
ANSWERS = {command: output for command, output in shown(README) if _LAST.match(output)}


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a directory with the checkout's files, a stack file, two versions' documents, and a kernel's package."""
    for name in ("run", "docs", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    for side in ("base", "new"):
        (tmp_path / side).mkdir()
        for name in ("connections.json", "matrix.json"):
            (tmp_path / side / name).symlink_to(ROOT / "results" / name)
    (tmp_path / "stack.yml").write_text(STACK, "utf-8")
    if "linux-image" in request.node.callspec.params["command"]:
        package = Path(request.getfixturevalue("cloud_kernel"))
        (tmp_path / package.name).symlink_to(package)
    return tmp_path


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=() if each in OF_README else pytest.mark.night) for each in COMMANDS]
)
def test_the_commands_work_and_end_in_what_the_page_shows(command: str, place: Path) -> None:
    done = subprocess.run(
        command, shell=True, cwd=place, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if command in ANSWERS:
        answer = _LAST.sub("", ANSWERS[command])
        assert done.stdout.endswith(answer) or done.stderr.endswith(answer), (done.stdout + done.stderr)[-3000:]


def test_the_readme_has_seven_questions_with_their_answers() -> None:
    asked = re.findall(r"^\*\*(.+\?)\*\*(?:(?!^\*\*).*\n)*?```console\n\$ (.+)\n\.\.\.\n", README, re.M)
    assert [command for _, command in asked] == list(ANSWERS)
    verbs = [re.findall(r"\./run bench (\w+)", command)[-1] for command in ANSWERS]
    assert verbs == ["answer", "matrix", "compare", "matrix", "matrix", "predict", "lab"]


def test_the_chinese_readme_has_the_same_commands() -> None:
    assert [command for command, _ in shown(CHINESE)] == [command for command, _ in shown(README)]


def test_the_first_commands_output_has_the_readmes_rows() -> None:
    (_, output), *_ = shown(README)
    assert {"direct", "ipvs-container"} <= set(re.findall(r"^│ (\S+)", output, re.M))


def test_the_page_of_planes_names_every_plane() -> None:
    listed = PLANES.partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", listed, re.M)) == set(catalog.names())
