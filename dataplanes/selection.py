"""A data plane as it was chosen. `NAME@VARIANT+KNOB=VALUE` is parsed once (catalog.py), and a `Selection` travels."""

from __future__ import annotations

import re

from msgspec import Struct


class Selection(Struct, frozen=True):
    """A plane with every knob that was chosen for it: what `--dataplane` names, and what a document records."""

    name: str  # as the user wrote it, the key of every figure and cell
    dataplane: str
    variant: str = ""
    knobs: dict[str, object] = {}
    placement: str = ""  # the name of the plane's placement; none for the direct path
    package: str = ""  # the package that it comes from and its version; none for our own


DIRECT = "direct"
REFERENCE = Selection(DIRECT, DIRECT)
"""The direct path, which every figure is divided by."""
SHORT = "direct-short"
"""The direct path without the bridge: the limit that figures are held against."""


def split(name: str) -> tuple[str, str]:
    """Return the plane in a name as the user wrote it, and what is behind it: the variant and the changes of knobs."""
    plane, _, settings = re.sub("[@+]", "\n", name, count=1).partition("\n")
    return plane, settings


def balances(name: str) -> bool:
    """Return True if the plane of this name has VIPs. Without, clients call the backends' own addresses in turn."""
    return split(name)[0] not in (DIRECT, SHORT)
