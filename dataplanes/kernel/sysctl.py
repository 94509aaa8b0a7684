"""Sysctls of a network namespace (/proc/sys/net shows those of the reading task's namespace)."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import netns
from dataplanes.kernel.undo import Undo


def _path(key: str) -> str:
    return "/proc/sys/" + key.replace(".", "/")


def value(name: str, key: str) -> str | None:
    """Return the value in a namespace, or None if this kernel has no such key."""
    with netns.inside(name):
        return _value(key)


def write(name: str, values: dict[str, str]) -> None:
    """Set several keys in a namespace. Raises Prerequisite for the first key that this kernel does not have."""
    with netns.inside(name):
        for key, value in values.items():
            _write(name, key, value)


def change(name: str, values: dict[str, str]) -> dict[str, str]:
    """Set several keys in a namespace, all or none. Return the previous values of those that were different."""
    with netns.inside(name), Undo() as undo:
        before: dict[str, str] = {}
        for key, value in values.items():
            old = _value(key)
            if old != value:
                _write(name, key, value)
                before[key] = old or ""
                undo(partial(_write, name, key, before[key]))
        return before


class Settings:
    """Keys that were changed for a purpose, and their previous values."""

    def __init__(self) -> None:
        self._before: dict[Hashable, tuple[str, dict[str, str]]] = {}

    def set(self, purpose: Hashable, name: str, values: dict[str, str]) -> None:
        """Set keys in a namespace, all or none. Repeated for the same purpose, it restores what was changed since."""
        changed = change(name, values)
        _, before = self._before.setdefault(purpose, (name, {}))
        before |= {key: value for key, value in changed.items() if key not in before}

    def put_back(self, purpose: Hashable) -> None:
        """Set the keys to their previous values, all or none."""
        if purpose in self._before:
            change(*self._before[purpose])
            del self._before[purpose]


def _value(key: str) -> str | None:
    try:
        with open(_path(key), encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def _write(name: str, key: str, value: str) -> None:
    try:
        with open(_path(key), "w", encoding="ascii") as file:
            file.write(value)
    except FileNotFoundError as error:
        raise Prerequisite(f"no sysctl {key}", where=name, why="this kernel lacks the feature") from error
    except OSError as error:
        raise KernelRefused(f"cannot set {key}={value}", where=name, why=error.strerror or "") from error
