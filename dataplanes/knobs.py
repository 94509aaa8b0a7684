"""The knobs of a data plane: the meaning, the allowed values and the default of each.

A mechanism declares them as the fields of a Struct, with `Annotated[TYPE, Meta(description=..., ge=..., le=...)]`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from dataplanes.errors import Usage

_Knobs = TypeVar("_Knobs", bound=Struct)


class Knob(Struct, frozen=True):
    """A knob. `values` are its allowed values or its bounds."""

    name: str
    meaning: str
    values: str
    default: str


def described(knobs: Struct) -> list[Knob]:
    """Describe every knob of a variant. The default is the value that this variant has."""
    fields = _fields(type(knobs))
    return [
        Knob(name, field.get("description", ""), _values(field), shown(getattr(knobs, name)))
        for name, field in fields.items()
    ]


def shown(value: object) -> str:
    """Write a value in the form that `--dataplane` reads."""
    return "none" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def change(text: str, knobs: _Knobs, changes: Sequence[str]) -> _Knobs:
    """Change knobs by KNOB=VALUE. Raises Usage, which names the right knobs or values."""
    if not changes:  # under emulation, making the schema takes noticeable time
        return knobs
    known = {knob.name: knob for knob in described(knobs)}
    made = msgspec.structs.asdict(knobs)
    for each in changes:
        name, equals, value = each.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            there = f"knobs, as knob=value: {', '.join(known)}" if known else "it has none"
            raise Usage(f"unknown knob {name!r}", where=text, fix=hint + there)
        if not equals:
            raise Usage(f"knob {name!r} without a value", where=text, fix=f"{name}={known[name].values}")
        made[name] = value
        if value == "none" and not _fits(made, type(knobs)):
            made[name] = None
        if not _fits(made, type(knobs)):
            raise Usage(f"bad knob {each!r}", where=text, fix=f"{name}={known[name].values}")
    return msgspec.convert(made, type(knobs), strict=False)


def _fits(made: dict[str, Any], kind: type[Struct]) -> bool:
    try:
        msgspec.convert(made, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _fields(kind: type[Struct]) -> dict[str, dict[str, Any]]:
    schema = msgspec.json.schema(kind)
    found: dict[str, dict[str, Any]] = schema["$defs"][kind.__name__]["properties"]
    return found


def _values(field: dict[str, Any]) -> str:
    """Return the allowed values: `eth0|lo`, `true|false`, `0..1|none`."""
    if "anyOf" in field:
        return "|".join(_values(each) for each in field["anyOf"])
    if "enum" in field:
        return "|".join(map(str, field["enum"]))
    if field.get("type") == "integer":
        return f"{field.get('minimum', '')}..{field.get('maximum', '')}"
    return {"boolean": "true|false", "null": "none"}.get(str(field.get("type")), str(field.get("type")))
