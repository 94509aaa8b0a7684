"""Changes of the services of one network, from those that somebody knows to those that are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence

from msgspec import Struct

from dataplanes.model import Service

ByName = dict[str, Service]
"""Services by name."""


class Change(Struct):
    """A change of the services of one network."""

    network: str
    old: list[Service]  # the previous versions of the services that change
    new: list[Service]  # their new versions
    fresh: list[Service]  # the new services that did not exist before
    come: list[Service]  # the new services whose VIP nobody had
    go: list[Service]  # the old services whose VIP nobody has any more


def update(network: str, known: Mapping[str, Service], wanted: Sequence[Service]) -> Change:
    """Return the change that adds services or gives them new versions."""
    new = [service for service in wanted if known.get(service.name) != service]
    fresh = [service for service in new if service.name not in known]
    old = [known[service.name] for service in new if service.name in known]
    had, have = {service.vip for service in old}, {service.vip for service in new}
    come = [service for service in new if service.vip not in had]
    return Change(network, old, new, fresh, come, [service for service in old if service.vip not in have])


def removal(network: str, known: Mapping[str, Service], unwanted: Iterable[Service]) -> Change:
    """Return the change that removes services. Those that are not known are gone already."""
    gone = [known[name] for name in dict.fromkeys(each.name for each in unwanted) if name in known]
    return Change(network, gone, [], [], [], gone)


def between(network: str, known: Mapping[str, Service], wanted: Mapping[str, Service]) -> Iterator[Change]:
    """Yield the changes from what is known to what is wanted: first what goes, since its VIP may be another's now."""
    gone = removal(network, known, [each for name, each in known.items() if name not in wanted])
    yield from (change for change in (gone, update(network, known, list(wanted.values()))) if change.old or change.new)


def carry(there: MutableMapping[str, ByName], change: Change) -> None:
    """Enter a change that was carried out among the services that are known of each network."""
    known = there.setdefault(change.network, {})
    for gone in {service.name for service in change.old} - {service.name for service in change.new}:
        known.pop(gone, None)
    known.update((service.name, service) for service in change.new)
