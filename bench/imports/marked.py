"""YAML and JSON whose values know their line and their field. Any text is read, or refused with its line.

PyYAML's parser tells events, and the tree is built of them here, without recursion and without expanding an alias. So
neither a file that is nested deeply nor one whose aliases multiply takes more time than its length allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from msgspec import Struct

from dataplanes.errors import Usage

_DEEPEST = 100
_VALUES = 1_000_000
_NOTHING = ("", "~", "null", "Null", "NULL")
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Value(Struct, eq=False):
    """A value of a file: a text, a list, a mapping, or nothing. Its line is that of its key, if it has one."""

    file: str
    line: int
    field: str
    data: str | list[Value] | dict[str, Value] | None
    tag: str = ""  # a tag that the file gives it, such as !reset
    key: str = ""  # the key of a mapping that was read and whose value is awaited, and its line
    key_line: int = 0

    @property
    def where(self) -> str:
        """The file and the line."""
        return f"{self.file}:{self.line}"

    def wrong(self, why: str, fix: str = "") -> Usage:
        """Return the error that tells what is wrong with the value."""
        return Usage(why, where=f"{self.where}: {self.field or 'top level'}", fix=fix)

    def fields(self) -> dict[str, Value]:
        """Return the values of a mapping by their keys. Nothing is an empty mapping."""
        if self.data is None:
            return {}
        if not isinstance(self.data, dict):
            raise self.wrong("it is not a mapping")
        return self.data

    def items(self) -> list[Value]:
        """Return the values of a list. Nothing is an empty list."""
        if self.data is None:
            return []
        if not isinstance(self.data, list):
            raise self.wrong("it is not a list")
        return self.data

    def text(self) -> str:
        """Return a text. Nothing is an empty text."""
        if self.data is None:
            return ""
        if not isinstance(self.data, str):
            raise self.wrong("it is neither a text nor a number")
        return self.data

    def number(self, least: int, most: int) -> int:
        """Return a whole number within bounds."""
        text = self.text()
        if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
            raise self.wrong(f"{text!r:.40} is not a number between {least} and {most:,}")
        return int(text)

    def at(self, *path: str) -> Value:
        """Return the value below some keys. It is nothing if a key is missing."""
        found = self
        for key in path:
            missing = Value(found.file, found.line, f"{found.field}.{key}".lstrip("."), None)
            found = found.fields().get(key, missing)
        return found


def documents(text: str, path: str) -> list[Value]:
    """Return the documents of a YAML or JSON text. Raises Usage with the line."""
    try:
        return list(_Builder(path).build(yaml.parse(text, Loader=_PARSER)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = " ".join(filter(None, (error.context, error.problem)))
        fix = "a template must be rendered first" if "{{" in text else ""
        raise Usage("not YAML", where=f"{path}:{mark.line + 1 if mark else 1}", why=why, fix=fix) from error
    except yaml.YAMLError as error:  # a character that YAML forbids
        place = text.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        raise Usage("not YAML", where=f"{path}:{place}", why=" ".join(str(error).split())) from error


class _Builder:
    """The values that are open at the present event, and the anchors so far."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: list[Value] = []
        self._anchors: dict[str, Value] = {}
        self._count = 0

    def build(self, events: Any) -> Iterator[Value]:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
            done = self._take(event)
            if done is not None and not self._open:
                yield done

    def _take(self, event: Any) -> Value | None:
        """Take an event. Return the value that it completes."""
        if isinstance(event, yaml.ScalarEvent):
            nothing = event.implicit[0] and event.value in _NOTHING
            return self._complete(self._value(event, None if nothing else event.value), event)
        if isinstance(event, yaml.AliasEvent):
            return self._complete(self._alias(event), None)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) >= _DEEPEST:
                raise Usage("it is nested too deeply", where=self._place(event), why=f"more than {_DEEPEST} levels")
            made = self._value(event, {} if isinstance(event, yaml.MappingStartEvent) else [])
            if event.anchor:
                self._anchors[event.anchor] = made
            self._open.append(made)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            made = self._open.pop()
            if isinstance(made.data, dict):
                self._merge(made)
            return self._complete(made, None)
        return None

    def _value(self, event: Any, data: Any) -> Value:
        self._counted(1, self._place(event))
        line = self._open[-1].key_line if self._open and self._open[-1].key else event.start_mark.line + 1
        return Value(self._path, line, self._field(), data, event.tag or "")

    def _counted(self, more: int, where: str) -> None:
        self._count += more
        if self._count > _VALUES:
            raise Usage("the file is too large", where=where, why=f"it has more than {_VALUES:,} values")

    def _field(self) -> str:
        """Return the field of the next value."""
        if not self._open:
            return ""
        parent = self._open[-1]
        if isinstance(parent.data, list):
            return f"{parent.field}[{len(parent.data)}]"
        return f"{parent.field}.{parent.key}".strip(".")

    def _alias(self, event: Any) -> Value:
        found = self._anchors.get(event.anchor)
        if found is None or found in self._open:
            why = "nothing has this anchor before it" if found is None else "the value contains itself"
            raise Usage(f"the alias *{event.anchor} cannot be used", where=self._place(event), why=why)
        return found

    def _complete(self, value: Value, event: Any) -> Value:
        """Give a complete value to its parent, as a key, as a field or as an item."""
        if event is not None and event.anchor:
            self._anchors[event.anchor] = value
        if not self._open:
            return value
        parent = self._open[-1]
        if isinstance(parent.data, list):
            parent.data.append(value)
        elif isinstance(parent.data, dict):
            if not parent.key:
                if not isinstance(value.data, str):
                    raise value.wrong("a key must be a text")
                if value.data in parent.data:
                    before = parent.data[value.data].line
                    raise value.wrong(f"{value.data!r:.40} is there twice", f"it is on line {before}, too")
                parent.key, parent.key_line = value.data or " ", value.line
            else:
                parent.data[parent.key], parent.key = value, ""
        return value

    def _merge(self, made: Value) -> None:
        """Add the fields of the mappings that a merge key (<<) names. A field of the mapping's own prevails."""
        own = made.fields()
        merged = own.pop("<<", None)
        if merged is None:
            return
        for each in merged.data if isinstance(merged.data, list) else [merged]:
            self._counted(len(each.fields()), made.where)
            for key, value in each.fields().items():
                own.setdefault(key, value)

    def _place(self, event: Any) -> str:
        return f"{self._path}:{event.start_mark.line + 1}"
