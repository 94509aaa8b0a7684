"""The elements of BPF maps that decide where packets go, and the programs that look them up.

Nothing tells which element a program has looked up. But the element's key is what the packet had before, and its value
is what the packet has afterwards. So it is found in the map when the packet has gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Stage = Literal["", "first", "later", "fragment"]
"""Which packets of a flow: all that are no later fragments, the first one, those after it, or later fragments."""


class Decisive(Struct, frozen=True):
    """An element, or several that a program looks up one after the other, and the rewrite that they explain.

    An end of a packet is ADDRESS:PORT. It has no port where the element knows none, and is "" where it knows no end.
    """

    node: str
    text: str  # MAP[KEY] = VALUE
    before: list[str]  # source and destination
    after: list[str]
    protocol: str = ""  # "" if it is the same for all
    stage: Stage = ""

    def explains(self, protocol: str, stage: Stage, before: Sequence[str], after: Sequence[str]) -> bool:
        """Return True if a packet at this stage is rewritten so by this element."""
        told, seen = (*self.before, *self.after), (*before, *after)
        whose = self.stage in ("", stage) if stage != "fragment" else self.stage == stage
        return whose and self.protocol in ("", protocol) and all(map(_is_at, told, seen))


def _is_at(told: str, seen: str) -> bool:
    return told in ("", seen, seen.partition(":")[0])


class Hooked(Struct, frozen=True):
    """A program that is attached to a hook, and the namespace and the device at which packets meet it."""

    netns: str
    device: str  # "" if it is attached to a cgroup
    hook: str  # tc ingress, inet4_connect, ...
    program: str
