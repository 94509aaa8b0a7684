"""Whether others have changed what the directors of one namespace have programmed there."""

from __future__ import annotations

from collections.abc import Mapping


class Guard:
    """What its directors saw last, by facts that are cheap to ask and that every change alters.

    A fact that is another without any of them having changed it is a doubt, for each of them: what one director has
    looked after since the last doubt is as it programmed it.
    """

    def __init__(self) -> None:
        self._seen: dict[str, object] = {}
        self._doubts = 0

    def doubts(self, now: Mapping[str, object]) -> int:
        """How many doubts there have been, with what is seen now."""
        if any(self._seen.get(fact, value) != value for fact, value in now.items()):
            self._doubts += 1
        self._seen |= now
        return self._doubts

    def ours(self, now: Mapping[str, object]) -> None:
        """It is another, and we did it."""
        self._seen |= now
