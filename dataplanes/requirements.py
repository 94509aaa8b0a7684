"""What a data plane needs of a machine: asked by doctor, by a run before it starts, and by the tests."""

from __future__ import annotations

from msgspec import Struct


class Feature(Struct, frozen=True):
    """A kernel feature: its Kconfig symbol, the module it lives in when built as one, and what it is for."""

    config: str  # without CONFIG_
    module: str
    purpose: str


class Tool(Struct, frozen=True):
    """A program or Python package the plane calls, and the Debian package that has it."""

    name: str
    package: str
    purpose: str


Requirement = Feature | Tool
