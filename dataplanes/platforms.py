"""Platforms: peers that make networks, addresses and VIPs themselves, so each is a whole testbed, and no plane in ours.

A platform is `peers/NAME/platform.toml`, and is selected as NAME@VERSION. Each version is a set of Debian packages. All
platforms have the same knobs, NAME@VERSION+KNOB=VALUE, unless a platform leaves no choice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from dataplanes import knobs, peers
from dataplanes.errors import Usage
from dataplanes.knobs import Knob
from dataplanes.requirements import Condition, Feature, Requirement, Tool, Unpacked
from dataplanes.selection import DIRECT, Selection, parsed, split

_EXPECTED = "expected.toml"
PLACEMENT = "platform"
"""What stands in a selection for the placement: a platform has its own."""


ServerPlace = Literal["container", "cgroup", "namespace"]


class PlatformKnobs(Struct, frozen=True):
    """The knobs of a platform. What a container adds to the cost of a connection is the difference between places."""

    servers: Annotated[
        ServerPlace,
        Meta(
            description="where the servers of tasks run: in their containers; or outside, in a container's network "
            "namespace and control group; or in its network namespace only, as in our lab"
        ),
    ] = "container"


class Version(Struct, frozen=True, forbid_unknown_fields=True):
    """A version: its packages, the first of which has that version, and what is set in it."""

    packages: tuple[str, ...]
    environ: dict[str, str] = {}  # of its daemons
    datapath: str = ""  # who forwards packets, if there is a choice
    alone: bool = True  # False if it also runs on a machine that has other things to do
    features: dict[str, str] = {}  # what it needs of the kernel besides: Kconfig symbol without CONFIG_ -> its module


class Platform(Struct, frozen=True, forbid_unknown_fields=True):
    """A platform as its file describes it."""

    name: str
    summary: str
    imitates: str  # the plane of the catalog whose expected outcomes are its own, unless its expected.toml differs
    default: str  # the version that is meant if none is named
    alone: str  # why it runs on no machine that has other things to do
    versions: dict[str, Version]  # by name: the version, and after a hyphen what is set in it
    tools: dict[str, str] = {}  # program -> the Debian package that has it
    features: dict[str, str] = {}  # Kconfig symbol without CONFIG_ -> its module
    servers: tuple[ServerPlace, ...] = get_args(ServerPlace)  # where servers can run; the first place is the default
    in_turn: bool = True  # False if it chooses backends at random

    @property
    def expected(self) -> str:
        """The file of what is expected of it otherwise than of what it imitates."""
        return os.path.join(os.path.dirname(peers.file(self.name)), _EXPECTED)

    @property
    def knobs(self) -> PlatformKnobs:
        """The knobs without changes."""
        return PlatformKnobs(self.servers[0])

    def described(self) -> list[Knob]:
        """Return the knobs that leave a choice."""
        return knobs.described(self.knobs) if len(self.servers) > 1 else []

    def _elsewhere(self) -> str:
        return self.alone

    def requires(self, version: str) -> tuple[Requirement, ...]:
        """Return what a version needs of the kernel and the machine."""
        purpose, made_of = f"{self.name} {version}", self.versions[version]
        own = [Condition("a machine of its own", purpose, self._elsewhere)] if made_of.alone else []
        return (
            Unpacked(" ".join(made_of.packages), purpose),
            *own,
            *(Tool(name, package, purpose) for name, package in self.tools.items()),
            *(Feature(symbol, module, purpose) for symbol, module in (self.features | made_of.features).items()),
        )


def select(text: str, name: str, settings: str) -> Selection:
    """Return a platform in a version, or in the default, with changes of knobs. Raises Usage for unknown ones."""
    found = known()[name]
    version, changes = parsed(settings, found.default)
    if version not in found.versions:
        raise Usage(f"{name} has no version {version!r}", where=text, fix=f"it has: {', '.join(found.versions)}")
    changed = knobs.change(text, found.knobs, changes)
    if changed.servers not in found.servers:
        raise Usage(f"{name} has no servers={changed.servers}", where=text, fix=f"it has: {', '.join(found.servers)}")
    return Selection(text, name, version, asdict(changed), PLACEMENT)


def of(selection: Selection) -> Platform | None:
    """Return the platform that was selected, itself or its direct path, or None for a plane of our own lab."""
    return known().get(_told(selection)[0]) if selection.placement == PLACEMENT else None


def version(selection: Selection) -> str:
    """Return the version of a platform that was selected."""
    return _told(selection)[1]


def servers(selection: Selection) -> ServerPlace:
    """Return where the servers of a selected platform's tasks run."""
    return msgspec.convert(selection.knobs, PlatformKnobs).servers


def testbed(selection: Selection) -> tuple[str, str, ServerPlace] | None:
    """Return by what the testbed of a selected platform is known, which its direct path shares; None for our lab."""
    found = of(selection)
    return (found.name, version(selection), servers(selection)) if found else None


def requires(selection: Selection) -> tuple[Requirement, ...]:
    """Return what a selected platform needs of the kernel and the machine; nothing for a plane of our own lab."""
    found = of(selection)
    return found.requires(version(selection)) if found else ()


def direct(selection: Selection) -> Selection:
    """Return the direct path on a selected platform, from container to container, by which its figures are divided."""
    variant = f"{selection.dataplane}@{selection.variant}"
    return Selection(f"{DIRECT}@{selection.name}", DIRECT, variant, selection.knobs, PLACEMENT)


def _told(selection: Selection) -> tuple[str, str]:
    """Return a platform's name and its version."""
    if selection.dataplane == DIRECT:
        return split(selection.variant)
    return selection.dataplane, selection.variant


def demand_planes(selections: Iterable[Selection], what: str) -> None:
    """Demand that all that was selected are planes in our lab, because `what` is done there only. Raises Usage."""
    for each in selections:
        if of(each):
            why = f"{what} needs a plane in our own lab, and {each.dataplane} is a testbed of its own"
            raise Usage(f"not to be had for {each.name}", why=why, fix="name a plane of `bench list dataplanes`")


@cache
def known() -> dict[str, Platform]:
    """Read every platform's file. Return the platforms by name."""
    return {each: msgspec.toml.decode(Path(peers.file(each)).read_bytes(), type=Platform) for each in peers.PLATFORMS}
