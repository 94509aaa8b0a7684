"""What a data plane is made of: a placement and a mechanism, for the knobs that are chosen.

To learn what a plane is and needs, neither is made: a `Part` knows the class and the arguments, and asks the class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from dataplanes.base import Mechanism, Placement
from dataplanes.requirements import Requirement

_Kind = TypeVar("_Kind", bound=Placement | Mechanism, covariant=True)


class Part(Generic[_Kind]):
    """A placement or a mechanism that is not made yet."""

    def __init__(self, kind: type[_Kind], *arguments: Any, **options: Any) -> None:
        self.kind = kind
        self._arguments = arguments
        self._options = options

    def requires(self) -> tuple[Requirement, ...]:
        """Return what it needs of the kernel and the machine with these arguments."""
        return self.kind.requires(*self._arguments, **self._options)

    def make(self) -> _Kind:
        """Make it."""
        return self.kind(*self._arguments, **self._options)


class Recipe(Struct, frozen=True):
    """A data plane of the catalog: what it is, what it is made of, and the named settings of its knobs."""

    name: str
    summary: str
    parts: Callable[[Any], tuple[Part[Placement], Part[Mechanism]]]
    variants: dict[str, Struct]
    default: str = ""
