"""A data plane as it was chosen.

`NAME@VARIANT+KNOB=VALUE` is parsed once (catalog.py), and then a `Selection` is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from msgspec import Struct

from dataplanes.plane_file import PlaneProgram


class Selection(Struct, frozen=True):
    """A plane with all knobs that were chosen for it. `--dataplane` names it, and a document records it."""

    name: str  # the name as the user wrote it, which is the key of every figure and cell
    dataplane: str
    variant: str = ""
    knobs: dict[str, object] = {}
    placement: str = ""  # the name of the plane's placement; "" for the direct path
    package: str = ""  # the package that it comes from and its version; "" for our own
    program: PlaneProgram | None = None  # of a plane file


DIRECT = "direct"
REFERENCE = Selection(DIRECT, DIRECT)
"""The direct path, by which every figure is divided."""
SHORT = "direct-short"
"""The direct path without the bridge: the limit that figures are held against."""


def split(name: str) -> tuple[str, str]:
    """Split a name as the user wrote it into the plane and the rest, which has the variant and the changes of knobs."""
    plane, _, settings = re.sub("[@+]", "\n", name, count=1).partition("\n")
    return plane, settings


def parsed(settings: str, default: str) -> tuple[str, list[str]]:
    """Return the variant in the rest of a name, or the default, and the changes of knobs."""
    variant, *changes = settings.split("+") if settings else [default]
    return (default, [variant, *changes]) if "=" in variant else (variant, changes)


def title(name: str, plane: str, variant: str) -> str:
    """Return the name of a selection with its variant, which the user need not have named: `ipvs-lb@iptables`."""
    settings = split(name)[1]
    if not variant or settings.split("+")[0] == variant:
        return name
    return f"{plane}@{variant}" + (f"+{settings}" if settings else "")


def reference(name: str, measured: Collection[str]) -> str:
    """Return by which of the measured planes a plane's figures are divided.

    That is the direct path of its own testbed if there is one (platforms.direct), and the lab's otherwise.
    """
    own = name if split(name)[0] == DIRECT else f"{DIRECT}@{name}"
    return own if own in measured else DIRECT


def balances(name: str) -> bool:
    """Return True if the plane of this name has VIPs. Without, clients call the backends' own addresses in turn."""
    return split(name)[0] not in (DIRECT, SHORT)
