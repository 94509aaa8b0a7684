"""The program without a checkout: the wheel in an environment of its own, and the Containerfile."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from bench.prepare import machine
from tests.conftest import ROOT
from tests.program.command import soonest

PLANES = "nft-lb,ebpf-tc"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bench` of a wheel in a bare environment, which sees none of the distribution's Python packages.

    The packages of an index are those of this environment, because a test has no network.
    """
    directory = tmp_path_factory.mktemp("installed")
    offline = ("--no-index", "--no-deps", "--disable-pip-version-check", "-q")
    pip = (sys.executable, "-m", "pip")
    subprocess.run([*pip, "wheel", "--no-build-isolation", *offline, "-w", str(directory), str(ROOT)], check=True)
    (wheel,) = directory.glob("vip_bench-*.whl")
    venv.create(directory / "env", with_pip=False)
    python = directory / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", *offline, str(wheel)], check=True)
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "index.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # no .pth there is read, as the checkout's
    return python.with_name("bench")


def run(program: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, cwd=cwd, timeout=600, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_in_an_environment_of_its_own(installed: Path, tmp_path: Path) -> None:
    python = installed.with_name("python")
    asked = "import bench, importlib.util as u; print(bench.__file__, u.find_spec('nftables'), u.find_spec('bcc'))"
    place, *modules = run(python, "-c", asked, cwd=tmp_path).split()
    assert place.startswith(str(installed.parents[1])), "not the checkout"
    assert modules == ["None", "None"]
    needed = run(python, "-c", "from bench.prepare import machine; print(len(machine.needed()))", cwd=tmp_path)
    assert int(needed) == len(machine.needed())
    options = ("--kernel", soonest(PLANES), "--dataplane", PLANES)
    run(installed, "matrix", *options, "-k", "reach.payload", "-o", "matrix.json", cwd=tmp_path)
    cells = json.loads((tmp_path / "matrix.json").read_bytes())["cells"]
    assert {(each["dataplane"], each["outcome"]) for each in cells} == {("nft-lb", "pass"), ("ebpf-tc", "pass")}
    shown = run(installed, "run", *options[:2], "-d", "nft-lb", "-r", "1", "-n", "200", cwd=tmp_path)
    assert re.search(r"nft-lb +│ +[\d,]+ ", shown)
    lab = ("lab", *options[:2], "-d", "nft-lb", "--", "sh", "-c", "service scale my-web 4")
    assert run(installed, *lab, cwd=tmp_path).count("my-web.") == 4


def test_the_containerfile_installs_what_the_list_names(tmp_path: Path) -> None:
    """The image's lines are run, with an apt-get and a pip that tell what they were asked for."""
    text = (ROOT / "Containerfile").read_text("utf-8")
    for source in re.findall(r"^COPY (\S+) ", text, re.M):
        assert (ROOT / source).exists()
    copied = tmp_path / "needs"
    copied.write_bytes((ROOT / "bench" / "prepare" / "needs").read_bytes())
    for name in ("apt-get", "python3", "pip"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/told\n')
        (tmp_path / name).chmod(0o755)
    for line in re.findall(r"^RUN (.+)$", text, re.M):
        script = line.replace("/usr/share/vip-bench/needs", str(copied)).replace("/opt/vip-bench/bin", str(tmp_path))
        script = script.replace("rm -rf /usr/src/vip-bench", "true")
        environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["sh", "-ec", script], check=True, env=environ, cwd=tmp_path)
    update, install, made, pip = (tmp_path / "told").read_text().splitlines()
    assert (update, made) == ("apt-get update", "python3 -m venv /opt/vip-bench")
    wanted = install.removeprefix("apt-get install -y --no-install-recommends ").split()
    assert wanted == ["ca-certificates", *(each.package for each in machine.needed())]
    assert pip == "pip install --no-cache-dir /usr/src/vip-bench"
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert not {"bench", "dataplanes", "scenarios", "pyproject.toml", "README.md", "LICENSE"} & set(ignored)
