"""A director whose services are entries of filters and nothing else: the layouts of others are programmed so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from dataplanes.base import Counter, Director, Footprint, Site
from dataplanes.errors import BenchError
from dataplanes.filters import Entry, Filter
from dataplanes.guard import Guard
from dataplanes.kernel import sysctl
from dataplanes.kernel.undo import Undo
from dataplanes.model import Service

Entries = Callable[[Sequence[Service]], Iterable[Entry]]
"""The entries that services have in the filters of a site."""


class SharedSite:
    """What the directors of one namespace share: what they saw last, the namespace's settings, and filters."""

    def __init__(self, netns: str, settings: dict[str, str]) -> None:
        self.guard = Guard()
        self._netns = netns
        self._wanted = settings
        self._settings = sysctl.Settings()
        self._users: set[object] = set()
        self.filters: dict[Filter, list[object]] = {}  # the directors that use each filter

    def tells(self, filter_: Filter, director: object) -> bool:
        """Return True if this director is the one that tells what a filter holds."""
        return self.filters[filter_][0] is director

    def enter(self, director: object) -> None:
        """Set the settings. Repeated, it restores them."""
        self._settings.set(self, self._netns, self._wanted)
        self._users.add(director)

    def leave(self, director: object) -> None:
        """Put the settings back if no other director needs them."""
        if self._users <= {director}:
            self._settings.put_back(self)
        self._users.discard(director)


class FilterDirector(Director):
    """The director of a site where everything that services have is entries of filters."""

    def __init__(self, site: Site, shared: SharedSite, filters: list[Filter], entries: Entries) -> None:
        self._site = site
        self._shared = shared
        self._filters = filters
        self._entries = entries
        self._services: dict[str, Service] = {}
        self._open = True
        try:
            with Undo() as undo:
                self._cleared = shared.guard.doubts(self._look())
                undo(partial(shared.leave, self))
                shared.enter(self)
                for each in filters:
                    each.open()
                    undo(each.clear)
                    shared.filters.setdefault(each, []).append(self)
                    undo(partial(shared.filters[each].remove, self))
                shared.guard.ours(self._look())
        except BenchError:
            self.release()
            raise

    def apply(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), services)

    def remove(self, services: Sequence[Service]) -> None:
        self._replace(self._known(services), ())

    def _known(self, services: Sequence[Service]) -> list[Service]:
        return [self._services[service.name] for service in services if service.name in self._services]

    def _program(self, old: Sequence[Service], new: Sequence[Service], undo: Undo) -> None:
        """Program the new services instead of the old ones."""
        for each in self._filters if new else reversed(self._filters):
            each.change(self._entries(old), self._entries(new), undo)

    def _replace(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        with Undo() as undo:
            self._program(old, new, undo)
            self._note(old, new)
            undo(partial(self._note, new, old))
            self._forget(old, new)
            self._shared.guard.ours(self._look())

    def _forget(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        """Forget connections that must not go on. It is the last step of a change."""

    def _note(self, old: Sequence[Service], new: Sequence[Service]) -> None:
        """Record that the kernel has these services now."""
        for service in old:
            del self._services[service.name]
        self._services.update((service.name, service) for service in new)

    def resync(self) -> None:
        doubts = self._shared.guard.doubts(self._look())
        self._shared.enter(self)
        self._restore()
        self._shared.guard.ours(self._look())
        self._cleared = doubts

    def _restore(self) -> None:
        """Bring everything to what was programmed, whatever others have done to it."""
        for each in self._filters:
            each.restore()

    def intact(self) -> bool:
        return self._shared.guard.doubts(self._look()) == self._cleared

    def counters(self) -> list[Counter]:
        return []

    def footprint(self) -> list[Footprint]:
        # Filters that the sites of a node share are told once.
        return [found for each in self._filters if self._shared.tells(each, self) for found in each.footprint()]

    def close(self) -> None:
        if not self._open:
            return
        services = list(self._services.values())
        with Undo() as undo:
            self.remove(services)
            undo(partial(self.apply, services))
            for each in reversed(self._filters):
                each.clear()
                undo(each.open)
            self._shared.leave(self)
        for each in self._filters:
            self._shared.filters[each].remove(self)
        self.release()

    def release(self) -> None:
        self._open = False
        for each in self._filters:
            each.close()

    def _look(self) -> dict[str, object]:
        return {fact: seen for each in self._filters for fact, seen in each.look().items()}
