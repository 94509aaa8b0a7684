"""A check whether others have changed the programmed state of one namespace."""

from __future__ import annotations

from collections.abc import Mapping


class Guard:
    """The facts that the directors of a namespace saw last. The facts are cheap to read, and every change alters them.

    If a fact has changed and no director changed it, that is a doubt for every director. A director that has restored
    its state since the last doubt knows that its state is as it programmed it.
    """

    def __init__(self) -> None:
        self._seen: dict[str, object] = {}
        self._doubts = 0

    def doubts(self, now: Mapping[str, object]) -> int:
        """Compare with the facts of now, and return how many doubts there have been."""
        if any(self._seen.get(fact, value) != value for fact, value in now.items()):
            self._doubts += 1
        self._seen |= now
        return self._doubts

    def ours(self, now: Mapping[str, object]) -> None:
        """Record facts that a director itself has changed."""
        self._seen |= now
