"""The expected outcome of each check on each plane. expected.toml lists every difference with its reason.

Another package has a file of its own, for its planes and its checks, and so may a plane file have one for its plane.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from functools import cache

import msgspec
from msgspec import Struct

from dataplanes import catalog, extensions, files, platforms, toml
from dataplanes.errors import Usage
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


class OwnDifference(Struct, frozen=True, forbid_unknown_fields=True):
    """An expectation in the file of a plane file. It is about that plane."""

    checks: list[str]
    reason: str
    expected: Expected = "fail"
    reference: str = ""
    kernels: list[str] = []


class OwnDifferences(Struct, frozen=True, forbid_unknown_fields=True):
    """The file of expected differences of a plane file."""

    difference: list[OwnDifference] = []


class VersionDifference(OwnDifference, frozen=True, forbid_unknown_fields=True):
    """An expectation in the file of a platform."""

    versions: list[str] = []  # empty: all versions


class VersionDifferences(Struct, frozen=True, forbid_unknown_fields=True):
    """The file of expected differences of a platform."""

    difference: list[VersionDifference] = []


_MOST = 256 << 10
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


@cache
def _read(path: str, kind: type[OwnDifferences | VersionDifferences]) -> Sequence[OwnDifference]:
    return toml.decode(files.text(path, _MOST), kind, path, "a file of expected differences").difference


def _own(selection: Selection) -> tuple[str, Sequence[OwnDifference]]:
    """Return the file of expected differences of a plane file's plane or of a platform, and all that it says.

    The file is "" if there is none.
    """
    if platform := platforms.of(selection):
        return platform.expected, _read(platform.expected, VersionDifferences)
    path = selection.program.expected if selection.program else ""
    return path, _read(path, OwnDifferences) if path else ()


def demand_known(selections: Iterable[Selection]) -> None:
    """Raise Usage, with the line, if a plane's own expected differences are about no check or have no reason."""
    for path, found in dict(map(_own, selections)).items():
        for number, each in enumerate(found):
            if strange := [name for name in each.checks if name not in checks.known()]:
                near = difflib.get_close_matches(strange[0], checks.known(), 1)
                hint = f"did you mean {near[0]}?" if near else "`bench list checks` shows them"
                _refuse(path, f"difference[{number}].checks", f"there is no check {strange[0]!r}", hint)
            if not each.reason.strip():
                _refuse(path, f"difference[{number}].reason", "a difference needs a reason", "")


def _refuse(path: str, field: str, why: str, fix: str) -> None:
    raise Usage(why, where=f"{path}:{toml.line(files.text(path, _MOST), field)}: {field}", fix=fix)


def about(selection: Selection) -> Iterable[Expectation]:
    """Return the expectations in the file of a plane file's plane, or of a platform in the selected version."""
    for each in _own(selection)[1]:
        if not isinstance(each, VersionDifference) or not each.versions or selection.variant in each.versions:
            yield Expectation(each.checks, [selection.name], each.reason, each.expected, each.reference, each.kernels)


def expected(selection: Selection, check: str, release: str) -> Expectation:
    """Return the expectation for a check on a plane and a kernel.

    What a plane file or a platform imitates is expected of it, unless its own file says otherwise.
    """
    names = {selection.dataplane, selection.name, f"{selection.dataplane}@{selection.variant}"}
    imitated = catalog.imitated(selection)
    found = expected(imitated, check, release) if imitated else PLAIN
    for each in about(selection) if imitated or selection.program else load():
        kernel = not each.kernels or any(release.startswith(start) for start in each.kernels)
        if check in each.checks and names & set(each.planes) and kernel:
            found = each
    return found
