"""docs/extending.md, followed word by word: a package outside the repository adds a data plane and a check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
_FILE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.M | re.S)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The python of a new environment. It has what this one has, vip-bench included, and pip installs into the new."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    made = tmp_path / "env" / "bin" / "python"
    asked = [str(made), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    ours = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("dist-packages"))]
    Path(site, "ours.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in ours))
    Path(site, "bench.pth").write_text(f"{ROOT}\n")
    return made


def test_the_page_on_extending_works_as_it_stands(tmp_path: Path, python: Path) -> None:
    for name, body in _FILE.findall(PAGE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, "utf-8")
    (python.parent / "bench").write_text(f'#!/bin/sh\nexec {python} -m bench "$@"\n')
    (python.parent / "bench").chmod(0o755)
    commands = [command for block in _CONSOLE.findall(PAGE) for command in re.findall(r"^\$ (.+)$", block, re.M)]
    said = {command: _run(command, tmp_path, python) for command in commands}
    assert len(said) == 6
    assert re.search(r"^ipt-container +iptables .* \(vip-ipt 1\.0\)$", said["bench list dataplanes"], re.M)
    assert re.search(r"^greeting\.answers +A service's only .* \(vip-ipt 1\.0\)$", said["bench list checks"], re.M)
    for command in commands:
        if command.startswith("bench matrix"):
            assert re.search(r"\b0 not as expected", said[command]), said[command]


def _run(command: str, cwd: Path, python: Path) -> str:
    """Run a line of the page. pip has no network: it must build with what is installed."""
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env = {**os.environ, **offline, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
