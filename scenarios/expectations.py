"""The expected outcome of each check on each plane. expected.toml lists every difference with its reason.

Another package has a file of its own, for its planes and its checks.
"""

from __future__ import annotations

import os
from functools import cache

import msgspec
from msgspec import Struct

from dataplanes import extensions
from dataplanes.extensions import Extension
from dataplanes.selection import Selection, split
from scenarios import checks
from scenarios.outcomes import Expected

_FILE = os.path.join(os.path.dirname(__file__), "expected.toml")


class Expectation(Struct, frozen=True, forbid_unknown_fields=True):
    """An expected outcome that is not pass, or that differs for some planes, variants or kernels."""

    checks: list[str]
    planes: list[str]  # names; `name@variant` means only that variant
    reason: str
    expected: Expected = "fail"
    reference: str = ""
    kernels: list[str] = []  # prefixes of kernel releases; empty: all kernels


class _Differences(Struct, frozen=True, forbid_unknown_fields=True):
    difference: list[Expectation]


PLAIN = Expectation([], [], "", "pass")


@cache
def load() -> list[Expectation]:
    """Return every expectation in the order of the files. If several match, the last one holds.

    Raises Prerequisite if another package's file cannot be used.
    """
    found = _differences(_FILE)
    for each in extensions.group(extensions.EXPECTED):
        found += _of(each)
    return found


def _differences(path: str) -> list[Expectation]:
    with open(path, encoding="utf-8") as file:
        return msgspec.toml.decode(file.read(), type=_Differences).difference


def _of(extension: Extension) -> list[Expectation]:
    """Return the expectations of another package. They are about its own planes or its own checks."""
    try:
        found = _differences(os.path.join(extension.directory(), "expected.toml"))
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise extension.refused(f"expected.toml: {error}") from error
    planes = {each.name for each in extensions.group(extensions.PLANES) if each.package == extension.package}
    own = {name for name, each in checks.known().items() if each.package == extension.package}
    for each in found:
        if not (set(each.checks) <= own or {split(name)[0] for name in each.planes} <= planes):
            told = f"{', '.join(each.checks)} on {', '.join(each.planes)}"
            raise extension.refused(f"expected.toml: neither its own planes nor its own checks: {told}")
    return found


def expected(selection: Selection, check: str, release: str) -> Expectation:
    """Return the expectation for a check on a plane and a kernel."""
    names = {selection.dataplane, selection.name, f"{selection.dataplane}@{selection.variant}"}
    found = PLAIN
    for each in load():
        kernel = not each.kernels or any(release.startswith(start) for start in each.kernels)
        if check in each.checks and names & set(each.planes) and kernel:
            found = each
    return found
