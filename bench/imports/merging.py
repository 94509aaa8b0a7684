"""Several compose files as one, as `docker compose -f A -f B` merges them (Compose Specification, Merge).

A later file overrides an earlier one: mappings are merged key by key, lists are appended, and any other value is
replaced. Of ports with the same address, published port, target and protocol the last is kept. A list of networks is a
mapping whose values are empty. `!reset` removes a value, and `!override` replaces it as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from bench.imports.found import Discovery
from bench.imports.marked import Value

_READ = frozenset(
    ("services", "networks", "deploy", "placement", "constraints", "ports", "expose", "driver_opts", "ipam", "config")
)
"""Keys whose values are read as lists or mappings. Where others differ in kind, the later one is taken."""


def merged(documents: Sequence[Value], found: Discovery) -> Value:
    """Return one document. Where a value cannot be merged with an earlier one, a note tells which is kept."""
    merger = _Merger(found)
    whole = merger.merge(None, documents[0], "")
    for each in documents[1:]:
        whole = merger.merge(whole, each, "")
    return whole


class _Merger:
    def __init__(self, found: Discovery) -> None:
        self._found = found
        self._made: dict[tuple[int, int, str], tuple[Value | None, Value, Value]] = {}
        """The results by the key and the ids of both values, which are kept: what aliases repeat is merged once."""

    def merge(self, base: Value | None, over: Value, key: str) -> Value:
        """Return what becomes of a value that a later file overrides."""
        pair = id(base), id(over), key
        if pair not in self._made:
            self._made[pair] = base, over, self._merged(base, over, key)
        return self._made[pair][2]

    def _merged(self, base: Value | None, over: Value, key: str) -> Value:
        if base is None or base.data is None or over.tag == "!override":
            return replace(over, data=self._fields({}, over.data)) if isinstance(over.data, dict) else over
        if over.data is None:
            return base
        if key == "networks" and {type(base.data), type(over.data)} == {list, dict}:
            base, over = _mapping(base), _mapping(over)
        if isinstance(base.data, dict) and isinstance(over.data, dict):
            return replace(base, data=self._fields(base.data, over.data))
        if isinstance(base.data, list) and isinstance(over.data, list):
            both = base.data + over.data
            return replace(base, data=_ports(both) if key == "ports" else both)
        if key in _READ and type(base.data) is not type(over.data):
            self._found.note(
                over.where, over.field, f"it is {_kind(over)}, and {_kind(base)} in {base.where}, which is kept"
            )
            return base
        return over

    def _fields(self, base: dict[str, Value], over: dict[str, Value]) -> dict[str, Value]:
        made = dict(base)
        for key, value in over.items():
            if value.tag == "!reset":
                made.pop(key, None)
            else:
                made[key] = self.merge(made.get(key), value, key)
        return made


def _kind(value: Value) -> str:
    return "a list" if isinstance(value.data, list) else "a mapping" if isinstance(value.data, dict) else "a text"


def _mapping(value: Value) -> Value:
    """Return a list of names as a mapping whose values are empty."""
    if not isinstance(value.data, list):
        return value
    return replace(value, data={each.text(): replace(each, data=None) for each in value.data})


def _ports(listed: Sequence[Value]) -> list[Value]:
    """Return ports without those that a later one replaces. It takes the place of the earlier one."""
    return list({_port(each): each for each in listed}.values())


def _port(value: Value) -> tuple[str, ...]:
    """Return what must be unique of a port, in its short or its long form. A variable is taken as it is written."""
    if isinstance(value.data, dict):
        names = ("host_ip", "published", "target", "protocol")
        address, published, target, protocol = (value.at(each).text() for each in names)
    else:
        text, _, protocol = value.text().partition("/")
        if "$" in text:
            return (value.text(),)
        address, published, target = ["", "", *text.rsplit(":", 2)][-3:]
    return address or "0.0.0.0", published, target, protocol.lower() or "tcp"
