"""A mechanism at a placement is a data plane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dataplanes.base import Counter, DataPlane, Director, Fabric, Footprint, Mechanism, Placement, Site
from dataplanes.errors import BenchError
from dataplanes.model import Endpoint, Segment, Service
from dataplanes.requirements import Requirement


class _Post:
    """A site, and the director that was opened there."""

    __slots__ = ("director", "site")

    def __init__(self, site: Site, director: Director) -> None:
        self.site = site
        self.director = director


class PlacedPlane(DataPlane):
    """Keeps what is wanted (services per network) and brings every site of the network to it."""

    def __init__(self, name: str, placement: Placement, mechanism: Mechanism, fabric: Fabric) -> None:
        self.name = name
        self._placement = placement
        self._mechanism = mechanism
        self._fabric = fabric
        self._segments: dict[tuple[str, str], Segment] = {}
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._segment_posts: dict[tuple[str, str], list[_Post]] = {}
        self._endpoint_posts: dict[tuple[str, str], list[_Post]] = {}
        self._services: dict[str, dict[str, Service]] = {}

    def requires(self) -> tuple[Requirement, ...]:
        return tuple(dict.fromkeys((*self._placement.requires(), *self._mechanism.requires())))

    def add_segment(self, segment: Segment) -> None:
        key = segment.network, segment.node
        self._segments[key] = segment
        posts = self._segment_posts[key] = []
        for site in self._placement.open_segment(segment, self._fabric):
            self._open(site, posts)

    def add_endpoint(self, endpoint: Endpoint) -> None:
        key = endpoint.network, endpoint.name
        self._endpoints[key] = endpoint
        posts = self._endpoint_posts[key] = []
        segment = self._segments[endpoint.network, endpoint.node]
        for site in self._placement.open_endpoint(endpoint, segment):
            self._open(site, posts)

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        posts = self._endpoint_posts.pop((endpoint.network, endpoint.name), [])
        known = self._services.get(endpoint.network, {})
        for post in reversed(posts):
            self._placement.withdraw(post.site, list(known.values()))
            post.director.close()
        if self._endpoints.pop((endpoint.network, endpoint.name), None):
            self._placement.close_endpoint(endpoint, [post.site for post in posts])

    def apply(self, services: Sequence[Service]) -> None:
        for network, wanted in _by_network(services).items():
            known = self._services.setdefault(network, {})
            changed = [service for service in wanted if known.get(service.name) != service]
            fresh = [service for service in changed if service.name not in known]
            touched: list[_Post] = []
            try:
                for post in self._posts(network):
                    touched.append(post)
                    post.director.apply(changed)
                    self._placement.publish(post.site, fresh)
            except BenchError:
                self._restore(touched, known, changed, fresh)
                raise
            known.update((service.name, service) for service in changed)

    def _restore(
        self, posts: Iterable[_Post], known: dict[str, Service], changed: list[Service], fresh: list[Service]
    ) -> None:
        """Best effort back to the old state wherever the new one may be; the first error is the one told."""
        old = [known[service.name] for service in changed if service.name in known]
        for post in posts:
            for undo in (
                lambda post=post: self._placement.withdraw(post.site, fresh),
                lambda post=post: post.director.remove(fresh),
                lambda post=post: post.director.apply(old),
            ):
                try:
                    undo()
                except BenchError:
                    continue

    def remove(self, services: Sequence[Service]) -> None:
        for network, unwanted in _by_network(services).items():
            known = self._services.get(network, {})
            gone = [known[service.name] for service in unwanted if service.name in known]
            for post in self._posts(network):
                self._placement.withdraw(post.site, gone)
                post.director.remove(gone)
            for service in gone:
                del known[service.name]

    def counters(self) -> list[Counter]:
        return [counter for post in self._all_posts() for counter in post.director.counters()]

    def footprint(self) -> list[Footprint]:
        return [entry for post in self._all_posts() for entry in post.director.footprint()]

    def close(self) -> None:
        for endpoint in reversed(list(self._endpoints.values())):
            self.remove_endpoint(endpoint)
        for key, posts in reversed(list(self._segment_posts.items())):
            for post in reversed(posts):
                self._placement.withdraw(post.site, list(self._services.get(key[0], {}).values()))
                post.director.close()
            self._placement.close_segment(self._segments[key], [post.site for post in posts], self._fabric)
        self._segment_posts.clear()
        self._services.clear()
        self._mechanism.close()

    def release(self) -> None:
        for post in self._all_posts():
            post.director.release()
        self._segment_posts.clear()
        self._endpoint_posts.clear()
        self._mechanism.close()

    def _open(self, site: Site, posts: list[_Post]) -> None:
        post = _Post(site, self._mechanism.open(site))
        posts.append(post)
        known = list(self._services.get(site.network, {}).values())
        if known:
            post.director.apply(known)
            self._placement.publish(site, known)

    def _posts(self, network: str) -> list[_Post]:
        return [post for post in self._all_posts() if post.site.network == network]

    def _all_posts(self) -> list[_Post]:
        groups = (*self._segment_posts.values(), *self._endpoint_posts.values())
        return [post for group in groups for post in group]


def _by_network(services: Iterable[Service]) -> dict[str, list[Service]]:
    grouped: dict[str, list[Service]] = {}
    for service in services:
        grouped.setdefault(service.network, []).append(service)
    return grouped
