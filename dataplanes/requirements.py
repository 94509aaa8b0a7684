"""The kinds of requirement of a data plane. `bench doctor`, a run before it starts, and the tests check them.

What a plane needs is declared by its mechanism and its placement, in their methods `requires`.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import asdict


class Feature(Struct, frozen=True):
    """A kernel feature: its Kconfig symbol, its module if it is built as one, and its purpose."""

    config: str  # without CONFIG_
    module: str
    purpose: str


class Tool(Struct, frozen=True):
    """A program that the plane calls, and the Debian package that has it."""

    name: str
    package: str
    purpose: str


class Package(Struct, frozen=True):
    """A Python package of the distribution that is not on PyPI, and the Debian package that has it."""

    name: str
    package: str
    purpose: str


class Condition(Struct, frozen=True):
    """A condition that only the running machine can tell. A guest meets it, because nothing else runs there."""

    name: str
    purpose: str
    obstacle: Callable[[], str]  # returns what is in the way, or ""


class Compiled(Struct, frozen=True):
    """An eBPF object of dataplanes/bpf. A run compiles it before it starts if it is not in the cache."""

    name: str
    purpose: str


class Executable(Struct, frozen=True):
    """A program of the user's, by its path. A guest has the machine's files, without those of some directories."""

    name: str
    purpose: str


class Unpacked(Struct, frozen=True):
    """Debian packages that a run unpacks into the cache before it starts. They are not installed."""

    name: str  # the packages' names, with blanks between
    purpose: str

    def packages(self) -> tuple[str, ...]:
        """Return the packages' names."""
        return tuple(self.name.split())


Requirement = Feature | Tool | Package | Condition | Compiled | Executable | Unpacked


def described(requirement: Requirement) -> dict[str, str]:
    """Describe a requirement for a document: its kind, and its texts by field."""
    texts = {name: value for name, value in asdict(requirement).items() if isinstance(value, str)}
    return {"kind": type(requirement).__name__.lower(), **texts}
