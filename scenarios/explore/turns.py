"""Whose turn it may be when backends are chosen in turn, while backends come and go."""

from __future__ import annotations

from collections.abc import Collection


class Turns:
    """The turns of one service, as one client sees them who makes one connection after another.

    A backend gets no second connection before every other one that was there all the time has had one. So a balancer
    that begins anew with each change is noticed, and one that goes on, in any order, is not.
    """

    def __init__(self) -> None:
        self._since: dict[str, int] = {}  # backend -> the number of connections before it came
        self._had: dict[str, int] = {}  # backend -> the number of the last connection that it got
        self._made = 0
        self._last: tuple[str, str] | None = None  # who made the last connection, and by which transport

    def known(self, able: Collection[str]) -> None:
        """Take note of the backends that may get connections now."""
        self._since = {name: self._since.get(name, self._made) for name in able}
        self._had = {name: number for name, number in self._had.items() if name in self._since}

    def due(self, who: tuple[str, str]) -> set[str]:
        """Return the backends that may get the next connection of this client."""
        if who != self._last:  # others may share the turns with it, or not
            return set(self._since)
        return {name for name in self._since if not self._overtakes(name)}

    def taken(self, who: tuple[str, str], backend: str) -> None:
        """Take note of a connection that a backend got."""
        if who != self._last:
            self.begin_anew()
            self._last = who
        self._made += 1
        self._had[backend] = self._made

    def begin_anew(self) -> None:
        """Forget what was: the next connection may be anybody's."""
        self._last, self._made = None, 0
        self._since, self._had = dict.fromkeys(self._since, 0), {}

    def _overtakes(self, chosen: str) -> bool:
        """Return True if another one that was there at the last connection of this one has had none since."""
        had = self._had.get(chosen, 0)
        return any(since < had and self._had.get(name, 0) < had for name, since in self._since.items())
