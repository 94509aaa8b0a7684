"""What a data plane needs of a machine: asked by doctor, by a run before it starts, and by the tests."""

from __future__ import annotations

from collections.abc import Callable

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


class Package(Struct, frozen=True):
    """A Python package of the distribution, not on PyPI, and the Debian package that has it."""

    name: str
    package: str
    purpose: str


class Condition(Struct, frozen=True):
    """Something about the running machine that only asking tells; a guest, where nothing else runs, meets it."""

    name: str
    purpose: str
    obstacle: Callable[[], str]  # what is in the way, or nothing


class Compiled(Struct, frozen=True):
    """An eBPF object of dataplanes/bpf, which a run compiles before it starts if it is not in the cache."""

    name: str
    purpose: str


Requirement = Feature | Tool | Package | Condition | Compiled
