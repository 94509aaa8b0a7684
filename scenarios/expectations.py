"""The expected outcome of each check on each plane. expected.toml lists every difference with its reason."""

from __future__ import annotations

import os
from functools import cache
from typing import Literal

import msgspec
from msgspec import Struct

from dataplanes.selection import Selection

_FILE = os.path.join(os.path.dirname(__file__), "expected.toml")


class Expectation(Struct, frozen=True, forbid_unknown_fields=True):
    """An expected outcome that is not pass, or that differs for some planes, variants or kernels."""

    checks: list[str]
    planes: list[str]  # names; `name@variant` means only that variant
    reason: str
    expected: Literal["pass", "fail", "skip"] = "fail"
    reference: str = ""
    kernels: list[str] = []  # prefixes of kernel releases; empty: all kernels


class _Differences(Struct, frozen=True, forbid_unknown_fields=True):
    difference: list[Expectation]


PLAIN = Expectation([], [], "", "pass")


@cache
def load() -> list[Expectation]:
    """Return every expectation in the order of the file. If several match, the last one holds."""
    with open(_FILE, encoding="utf-8") as file:
        return msgspec.toml.decode(file.read(), type=_Differences).difference


def expected(selection: Selection, check: str, release: str) -> Expectation:
    """Return the expectation for a check on a plane and a kernel."""
    names = {selection.dataplane, selection.name, f"{selection.dataplane}@{selection.variant}"}
    found = PLAIN
    for each in load():
        kernel = not each.kernels or any(release.startswith(start) for start in each.kernels)
        if check in each.checks and names & set(each.planes) and kernel:
            found = each
    return found
