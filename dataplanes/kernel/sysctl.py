"""Sysctls of the current network namespace (/proc/sys/net shows the one of the task that looks)."""

from __future__ import annotations

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel import netns


def _path(key: str) -> str:
    return "/proc/sys/" + key.replace(".", "/")


def read(name: str, key: str) -> str | None:
    """The value in a namespace, or None where this kernel has no such key."""
    with netns.inside(name):
        try:
            with open(_path(key), encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError:
            return None


def write(name: str, values: dict[str, str]) -> None:
    """Set several keys in a namespace. Raises Prerequisite naming the first key this kernel does not have."""
    with netns.inside(name):
        for key, value in values.items():
            try:
                with open(_path(key), "w", encoding="ascii") as file:
                    file.write(value)
            except FileNotFoundError as error:
                raise Prerequisite(f"no sysctl {key}", where=name, why="this kernel lacks the feature") from error
            except OSError as error:
                raise KernelRefused(f"cannot set {key}={value}", where=name, why=error.strerror or "") from error
