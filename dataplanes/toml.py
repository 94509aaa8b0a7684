"""TOML that a user has written. Every fault is told with its line and its field."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from dataplanes.errors import Usage

T = TypeVar("T")

_MOST_COLUMNS = 2048
"""The longest line, which bounds a dotted key: TOML's parser takes memory by the square of a key's length."""


def decode(
    text: str,
    kind: type[T],
    path: str,
    what: str,
    converted: Callable[[dict[str, Any]], object] = lambda tables: tables,
) -> T:
    """Decode a file's text to a type; `what` is "a scenario", for example. `converted` makes today's form of it.

    Raises Usage, which says what is wrong, at which line and at which field.
    """
    for number, columns in enumerate(map(len, text.splitlines()), 1):
        if columns > _MOST_COLUMNS:
            why = f"the line has {columns:,} characters, more than {_MOST_COLUMNS:,}"
            raise Usage(f"not {what}", where=f"{path}:{number}", why=why)
    try:
        return msgspec.convert(converted(msgspec.toml.decode(text)), kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `")
        field = where.removeprefix("key` in `").rstrip("`").removeprefix("$.")
        unknown = re.search(r"unknown field `(\w+)`", message)
        at = line(text, field, unknown.group(1) if unknown else "")
        raise Usage(message, where=f"{path}:{at}: {field or 'top level'}") from error
    except msgspec.DecodeError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        number = int(found.group(1)) if found else text.count("\n") + 1
        raise Usage("not TOML", where=f"{path}:{number}", why=str(error)) from error
    except RecursionError as error:
        raise Usage(f"not {what}", where=path, why="it is nested too deeply") from error


def line(text: str, field: str, key: str = "") -> int:
    """Return the line of a field such as `services[1].tasks[0].node`, as near as a scan of tables and keys can tell."""
    lines = text.splitlines()
    found = 0
    path = ""
    for part in field.split(".") if field else []:
        name, _, index = part.partition("[")
        number = int(index.rstrip("]")) if index.rstrip("]").isdigit() else 0
        path = f"{path}.{name}" if path else name
        header = re.compile(rf"\s*\[\[?{re.escape(path)}\]\]?\s*(#.*)?$")
        tables = [at for at, line in enumerate(lines) if header.match(line)]
        if tables:
            found = tables[min(number, len(tables) - 1)]
            continue
        found = _key_line(lines, found, name)
        if index and "{" not in lines[found]:
            items = [at for at in range(found + 1, len(lines)) if lines[at].lstrip().startswith("{")]
            found = items[number] if number < len(items) else found
    return (_key_line(lines, found, key) if key else found) + 1


def _key_line(lines: list[str], start: int, key: str) -> int:
    pattern = re.compile(rf"(^|[{{,\s]){re.escape(key)}\s*=")
    for at in range(start, len(lines)):
        if pattern.search(lines[at]):
            return at
    return start
