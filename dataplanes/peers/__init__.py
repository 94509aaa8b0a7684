"""Peers: implementations of others, which run unchanged at one of our placements (docs/peers.md).

Each directory here has a plane file, the program that translates the wanted state for the peer, and the differences
that are expected of it. A peer's packages are the distribution's (`needs.packages`).
"""

from __future__ import annotations

import os

_DIRECTORY = os.path.dirname(__file__)
_FILE, _PLATFORM = "plane.toml", "platform.toml"


def _with(file: str) -> tuple[str, ...]:
    return tuple(
        sorted(each for each in os.listdir(_DIRECTORY) if os.path.isfile(os.path.join(_DIRECTORY, each, file)))
    )


NAMES = _with(_FILE)
"""The names of the peers that are programs."""
PLATFORMS = _with(_PLATFORM)
"""The names of those that are a testbed of their own (dataplanes/platforms.py)."""


def file(name: str) -> str:
    """Return the path of a peer's plane file, or of a platform's file."""
    return os.path.join(_DIRECTORY, name, _PLATFORM if name in PLATFORMS else _FILE)
