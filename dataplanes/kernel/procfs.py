"""Files of /proc with lines of `name: value`."""

from __future__ import annotations


def field(path: str, name: str) -> str:
    """Return the first value of a name in a file of `name: value` lines; "" if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return ""
