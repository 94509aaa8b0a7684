"""A data plane made of a mechanism at a placement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from dataplanes import changes
from dataplanes.base import Attachments, Counter, DataPlane, Director, Footprint, Mechanism, Placement, Site
from dataplanes.changes import ByName, Change
from dataplanes.claims import Claims
from dataplanes.elements import Decisive, Hooked
from dataplanes.errors import BenchError, Usage
from dataplanes.kernel.undo import Undo
from dataplanes.model import Endpoint, Segment, Service

_Place = tuple[str, str]


class _Post:
    """A site, and the director that was opened there."""

    __slots__ = ("director", "site")

    def __init__(self, site: Site, director: Director) -> None:
        self.site = site
        self.director = director


class PlacedPlane(DataPlane):
    """A data plane that knows the wanted services of each network and programs them at every site of the network."""

    def __init__(self, name: str, placement: Placement, mechanism: Mechanism, attachments: Attachments) -> None:
        self.name = name
        self._placement = placement
        self._mechanism = mechanism
        self._attachments = attachments
        self._claims = Claims()
        self._segments: dict[_Place, Segment] = {}
        self._endpoints: dict[_Place, Endpoint] = {}
        self._segment_posts: dict[_Place, list[_Post]] = {}
        self._endpoint_posts: dict[_Place, list[_Post]] = {}
        self._services: dict[str, ByName] = {}
        self._deaf: set[str] = set()  # the nodes that hear of no change
        self._behind: dict[str, dict[str, ByName]] = {}  # a node that has missed a change -> what it knows

    # -- networks and containers --------------------------------------------------------------------------------

    def add_segment(self, segment: Segment) -> None:
        key = segment.network, segment.node
        if key in self._segments:
            raise Usage(f"{segment.network} is on {segment.node} already", where=self.name)
        with Undo() as undo:
            if self._claims.add_network(segment):
                undo(partial(self._claims.drop_network, segment.network))
            sites = self._placement.open_segment(segment, self._attachments)
            undo(partial(self._placement.close_segment, segment, sites, self._attachments))
            for site in sites:
                if site.endpoint:
                    self._claims.add(segment.network, site.endpoint.address, site.endpoint.name)
                    undo(partial(self._claims.drop, segment.network, site.endpoint.address))
            self._segment_posts[key] = [self._open(site, undo) for site in sites]
            self._segments[key] = segment

    def add_endpoint(self, endpoint: Endpoint) -> None:
        key = endpoint.network, endpoint.name
        segment = self._segments.get((endpoint.network, endpoint.node))
        if key in self._endpoints or segment is None:
            wrong = f"is on {endpoint.network} already" if segment else f"comes before its network, {endpoint.network}"
            raise Usage(f"{endpoint.name} {wrong}", where=self.name)
        with Undo() as undo:
            self._claims.add(endpoint.network, endpoint.address, endpoint.name)
            undo(partial(self._claims.drop, endpoint.network, endpoint.address))
            undo(partial(self._placement.close_endpoint, endpoint, []))
            sites = self._placement.open_endpoint(endpoint, segment)
            posts = [self._open(site, undo) for site in sites]
            for post in self._posts(endpoint.network):
                undo(post.director.meet([endpoint]))
            self._endpoint_posts[key] = posts
            self._endpoints[key] = endpoint

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        key = endpoint.network, endpoint.name
        if key not in self._endpoints:
            return
        posts = self._endpoint_posts[key]
        with Undo() as undo:
            for post in reversed(posts):
                self._close(post, undo)
            for post in self._posts(endpoint.network):
                if post not in posts:
                    post.director.part(endpoint)
                    undo(partial(post.director.meet, [endpoint]))
            undo(partial(self._placement.open_endpoint, endpoint, self._segment(endpoint)))
            self._placement.close_endpoint(endpoint, [post.site for post in posts])
        del self._endpoints[key], self._endpoint_posts[key]
        self._claims.drop(endpoint.network, endpoint.address)

    def _remove_segment(self, segment: Segment) -> None:
        key = segment.network, segment.node
        posts = self._segment_posts[key]
        with Undo() as undo:
            for post in reversed(posts):
                self._close(post, undo)
            self._placement.close_segment(segment, [post.site for post in posts], self._attachments)
        del self._segments[key], self._segment_posts[key]
        for post in posts:
            if post.site.endpoint:
                self._claims.drop(segment.network, post.site.endpoint.address)

    def close(self) -> None:
        with Undo() as undo:
            for endpoint in reversed(list(self._endpoints.values())):
                self.remove_endpoint(endpoint)
                undo(partial(self.add_endpoint, endpoint))
            for segment in reversed(list(self._segments.values())):
                self._remove_segment(segment)
                undo(partial(self.add_segment, segment))
        for known in (self._services, self._deaf, self._behind):
            known.clear()
        self._claims.clear()
        self._mechanism.close()

    def release(self) -> None:
        first: BenchError | None = None
        for post in self._all_posts():
            first = _attempt(post.director.release, first)
        self._placement.release()
        self._segment_posts.clear()
        self._endpoint_posts.clear()
        self._mechanism.close()
        if first:
            raise first

    def _open(self, site: Site, undo: Undo) -> _Post:
        undo(partial(self._placement.clear, site))
        self._placement.set_up(site)
        post = _Post(site, self._mechanism.open(site))
        undo(lambda: post.director.close())
        post.director.meet(self._met(site.network))
        known = self._known(site.network, site.node)
        if known:
            post.director.apply(known)
            undo(partial(self._placement.withdraw, site, known))
            self._placement.publish(site, known)
        return post

    def _close(self, post: _Post, undo: Undo) -> None:
        known = self._known(post.site.network, post.site.node)
        self._assure(post)
        undo(partial(self._placement.publish, post.site, known))
        self._placement.withdraw(post.site, known)
        post.director.close()
        undo(partial(self._reopen, post))
        undo(partial(self._placement.set_up, post.site))
        self._placement.clear(post.site)

    def _reopen(self, post: _Post) -> None:
        post.director = self._mechanism.open(post.site)
        post.director.meet(self._met(post.site.network))
        post.director.apply(self._known(post.site.network, post.site.node))

    # -- services -------------------------------------------------------------------------------------------------

    def apply(self, services: Sequence[Service]) -> None:
        found = []
        for network, wanted in _by_network(services).items():
            self._demand(network, wanted)
            found.append(changes.update(network, self._services.get(network, {}), wanted))
        self._carry_out([change for change in found if change.new])

    def remove(self, services: Sequence[Service]) -> None:
        grouped = _by_network(services)
        found = [changes.removal(network, self._services.get(network, {}), gone) for network, gone in grouped.items()]
        self._carry_out([change for change in found if change.old])

    def _demand(self, network: str, wanted: list[Service]) -> None:
        self._claims.demand_free(network, self._services.get(network, {}), wanted)
        for service in wanted if not self._mechanism.any_port else ():
            if not service.ports:
                why, where = f"{self.name} serves declared ports only", f"{network}/{service.name}"
                raise Usage("the service declares no port", where=where, why=why, fix="declare its ports")

    def _carry_out(self, found: list[Change]) -> None:
        with Undo() as undo:
            for change in found:
                for post in _distinct(self._posts(change.network)):
                    if post.site.node not in self._deaf:
                        self._assure(post)
                        for each in self._there(post.site.node, change):
                            self._change(post, each, undo)
        for change in found:
            for node in self._behind.keys() - self._deaf:
                for each in self._there(node, change):
                    changes.carry(self._behind[node], each)
            changes.carry(self._services, change)
            self._claims.replace(change.network, change.old, change.new)
        for node in self._behind.keys() - self._deaf:
            if self._behind[node] == self._services:
                del self._behind[node]

    def _there(self, node: str, change: Change) -> Sequence[Change]:
        """Return a change as it is on a node, which may have missed earlier ones.

        A service of whose removal it has not heard goes if its VIP is another's now.
        """
        if node not in self._behind:
            return [change]
        known = self._behind[node].get(change.network, {})
        if not change.new:
            return [changes.removal(change.network, known, change.old)]
        names, vips = {each.name for each in change.new}, {each.vip for each in change.new}
        ousted = [each for each in known.values() if each.vip in vips and each.name not in names]
        return [changes.removal(change.network, known, ousted), changes.update(change.network, known, change.new)]

    def _change(self, post: _Post, change: Change, undo: Undo) -> None:
        """Carry out a change at one site.

        A VIP is announced after it is programmed, and withdrawn before it is removed.
        """
        site, director, placement = post.site, post.director, self._placement
        if change.go:
            undo(partial(placement.publish, site, change.go))
            placement.withdraw(site, change.go)
        if change.new:
            director.apply(change.new)
        elif change.old:
            director.remove(change.old)
        if change.old:
            undo(partial(director.apply, change.old))
        if change.fresh:
            undo(partial(director.remove, change.fresh))
        if change.come:
            undo(partial(placement.withdraw, site, change.come))
            placement.publish(site, change.come)

    # -- nodes that learn late, or never ---------------------------------------------------------------------------

    def deafen(self, node: str) -> None:
        self._deaf.add(node)
        self._behind.setdefault(node, {network: dict(known) for network, known in self._services.items()})

    def hear(self, node: str) -> None:
        self._deaf.discard(node)

    def catch_up(self, node: str) -> None:
        self.hear(node)
        missed = [
            change
            for network in self._services
            for change in changes.between(network, self._behind[node].get(network, {}), self._services[network])
        ]
        with Undo() as undo:
            for change in missed:
                for post in _distinct(self._posts(change.network)):
                    if post.site.node == node:
                        self._assure(post)
                        self._change(post, change, undo)
        del self._behind[node]

    # -- restoring the wanted state --------------------------------------------------------------------------------

    def resync(self) -> None:
        first: BenchError | None = None
        for node in self._behind.keys() - self._deaf:
            first = _attempt(partial(self.catch_up, node), first)
        for endpoint in self._endpoints.values():
            first = _attempt(partial(self._placement.open_endpoint, endpoint, self._segment(endpoint)), first)
        for post in _distinct(self._all_posts()):
            first = _attempt(partial(self._restore, post), first)
        if first:
            raise first

    def _assure(self, post: _Post) -> None:
        """Restore the wanted state before a change if others may have touched the site.

        Some tools flush rules that are not theirs.
        """
        if not (post.director.intact() and self._placement.intact(post.site)):
            self._restore(post)

    def _restore(self, post: _Post) -> None:
        self._placement.set_up(post.site)
        post.director.resync()
        self._placement.publish(post.site, self._known(post.site.network, post.site.node))

    # -- reading the kernel's state --------------------------------------------------------------------------------

    def counters(self) -> list[Counter]:
        return [counter for post in self._all_posts() for counter in post.director.counters()]

    def lacking(self, service: Service) -> list[Site]:
        return [post.site for post in self._posts(service.network) if not post.director.holds(service)]

    def attached(self) -> list[Hooked]:
        return [each for post in _distinct(self._all_posts()) for each in post.director.attached()]

    def elements(self, ends: Collection[str], since: int) -> list[Decisive]:
        return [each for post in _distinct(self._all_posts()) for each in post.director.elements(ends, since)]

    def footprint(self) -> list[Footprint]:
        return [entry for post in self._all_posts() for entry in post.director.footprint()]

    def _known(self, network: str, node: str) -> list[Service]:
        """Return the services of a network that a node knows."""
        return list(self._behind.get(node, self._services).get(network, {}).values())

    def _met(self, network: str) -> list[Endpoint]:
        return [each for each in self._endpoints.values() if each.network == network]

    def _segment(self, endpoint: Endpoint) -> Segment:
        return self._segments[endpoint.network, endpoint.node]

    def _posts(self, network: str) -> list[_Post]:
        return [post for post in self._all_posts() if post.site.network == network]

    def _all_posts(self) -> list[_Post]:
        groups = (*self._segment_posts.values(), *self._endpoint_posts.values())
        return [post for group in groups for post in group]


def _distinct(posts: Iterable[_Post]) -> Iterable[_Post]:
    """Return one post of each group that shares what a change programs."""
    return {post.director.programmed: post for post in posts}.values()


def _attempt(act: Callable[[], object], first: BenchError | None) -> BenchError | None:
    """Run `act`, and return the first error so far. A site that cannot be restored does not keep the others from it."""
    try:
        act()
    except BenchError as error:
        return first or error
    return first


def _by_network(services: Iterable[Service]) -> dict[str, list[Service]]:
    grouped: dict[str, list[Service]] = {}
    for service in services:
        grouped.setdefault(service.network, []).append(service)
    return grouped
