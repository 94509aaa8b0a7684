"""The distribution's packages: apt finds, downloads and verifies them. They are unpacked, and never installed."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bench.kernels import suites
from dataplanes.errors import Prerequisite
from dataplanes.kernel.process import tied

_INST = re.compile(r"Inst (\S+) (?:\[[^\]]*\] )?\((\S+) (.*?)(?: \[\w+\])?\)")
"""A line of `apt-get install --simulate`: a package, the version that is installed, the new version, its suites."""


class DebianPackage(Struct, frozen=True):
    """A package that apt has found: its exact version, and the suite that has it, as apt tells it."""

    name: str
    version: str
    suite: str  # Debian:12.12/oldstable


def ask(*arguments: str) -> list[str]:
    """Return the words that apt-cache prints about kernels. Raises Prerequisite without apt."""
    if platform.machine() != "x86_64":
        raise Prerequisite("no guest for this machine", why=f"it is {platform.machine()}, guests are x86_64")
    try:
        done = subprocess.run(("apt-cache", *arguments), capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Prerequisite(
            "no apt", why="kernels come from Debian's packages", fix="--kernel /path/to/vmlinuz"
        ) from error
    return done.stdout.split()


def resolve(packages: Sequence[str]) -> list[DebianPackage]:
    """Return what these packages need to run on this machine: themselves, and their dependencies that it lacks.

    One may be of another suite, NAME/SUITE. Raises Prerequisite without apt, or if apt does not offer one of them.
    """
    named = " and ".join(packages)
    options = ("--simulate", "--reinstall", "--no-install-recommends")
    environ = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ("apt-get", "install", "-q", *suites.options(packages), *options, *packages),
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=tied(),
        )
    except FileNotFoundError as error:
        raise Prerequisite(f"{named} not to be had here", why="there is no apt", fix="use Debian or Ubuntu") from error
    found = [DebianPackage(*match.groups()) for match in map(_INST.match, done.stdout.splitlines()) if match]
    lacking = {suites.split(each)[0] for each in packages} - {each.name.partition(":")[0] for each in found}
    if done.returncode or lacking:
        errors = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
        why = errors[0] if errors else f"apt does not offer {', '.join(sorted(lacking))}"
        fix = "run apt-get update as root; if that does not help, this distribution does not have the package"
        raise Prerequisite(f"{named} not to be had here", why=why, fix=fix)
    return found


def download(packages: Sequence[str], work: Path, options: Sequence[str] = ()) -> Sequence[Path]:
    """Download packages, NAME or NAME=VERSION, to a directory, and return their paths. apt verifies them.

    Raises Prerequisite if one does not come.
    """
    argv = ("apt-get", "download", "-q", *options, *packages)
    done = subprocess.run(argv, cwd=work, capture_output=True, text=True, check=False, preexec_fn=tied())
    debs = sorted(work.glob("*.deb"))
    if done.returncode or not debs:
        reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
        raise Prerequisite(
            f"cannot download {packages[0]}", why=reason, fix="run apt-get update as root, and try again"
        )
    return debs


def extract(debs: Sequence[Path], target: Path) -> None:
    """Unpack packages into a directory without installing them."""
    for deb in debs:
        argv = ("dpkg-deb", "-x", deb, target)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, preexec_fn=tied())
        if done.returncode:
            raise Prerequisite(f"cannot unpack {deb.name}", why=done.stderr.strip().partition("\n")[0])
