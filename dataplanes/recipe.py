"""The recipe of a data plane: a placement and a mechanism, for the chosen knobs.

A plane's requirements can be read without making either part: a `Part` knows the class and the arguments, and asks the
class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, get_args

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
        """Return what the part needs of the kernel and the machine with these arguments."""
        return self.kind.requires(*self._arguments, **self._options)

    def make(self) -> _Kind:
        """Make the part."""
        return self.kind(*self._arguments, **self._options)


class Recipe(Struct, frozen=True):
    """A data plane of the catalog: its summary, its parts, and the named sets of its knobs."""

    name: str
    summary: str
    parts: Callable[[Any], tuple[Part[Placement], Part[Mechanism]]]
    variants: dict[str, Struct]
    default: str = ""


def wrong(made: object, plane: str) -> str:
    """Return what is wrong with the recipe of a plane, or "" if nothing is."""
    if not isinstance(made, Recipe):
        return f"it is no Recipe, but {type(made).__name__}"
    if made.name != plane:
        return f"its recipe is called {made.name!r}"
    if made.default not in made.variants:
        return f"its default variant {made.default!r} is none of its variants"
    for name, chosen in made.variants.items():
        try:
            found = (
                _wrong_parts(*made.parts(chosen)) if isinstance(chosen, Struct) else "its knobs are no msgspec.Struct"
            )
        except Exception as error:  # another package's code may raise anything
            found = f"{type(error).__name__}: {error}"
        if found:
            return f"variant {name!r}: {found}"
    return ""


def _wrong_parts(placement: object, mechanism: object) -> str:
    for part, kind in ((placement, Placement), (mechanism, Mechanism)):
        if not (isinstance(part, Part) and issubclass(part.kind, kind)):
            return f"its parts are no Part of a Placement and Part of a Mechanism, but {part!r}"
        if lacking := sorted(getattr(part.kind, "__abstractmethods__", ())):
            return f"{part.kind.__name__} does not define {', '.join(lacking)}"
        if strange := [need for need in part.requires() if not isinstance(need, get_args(Requirement))]:
            return f"{part.kind.__name__} requires {strange[0]!r}, which is no Requirement"
    return ""
