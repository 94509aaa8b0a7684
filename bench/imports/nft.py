"""The output of `nft -j list ruleset` in two layouts: kube-proxy's nftables mode, and moby's for swarm.

kube-proxy's has the map service-ips, whose elements name the chain of a Service's port. From there chains and maps
lead to the translations (pkg/proxy/nftables/proxier.go). moby's has the map nat-service-vip, with an element for each
backend (moby/moby#53125, and dataplanes/moby_nft.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.imports.found import Discovery, FoundBackend, Virtual, is_address, take_virtuals
from bench.imports.marked import Value

_KUBE, _MOBY = "service-ips", "nat-service-vip"
_PROTOCOLS = ("tcp", "udp", "sctp")
_STEPS = 1000
"""The largest number of chains on the way to one port's translations."""
MapElement = tuple[list[Value], Value]


def is_nft(document: Value) -> bool:
    """Report whether a document is such output."""
    return isinstance(document.data, dict) and "nftables" in document.data


def discover(document: Value, found: Discovery) -> None:
    """Add the services of every table in a layout that is known."""
    tables: dict[tuple[str, str], _Dump] = {}
    for each in document.at("nftables").items():
        for kind, value in each.fields().items():
            if kind in ("map", "rule") and value.at("family").text() in ("ip", "inet"):
                key = value.at("family").text(), value.at("table").text()
                tables.setdefault(key, _Dump()).take(kind, value)
            elif kind == "table" and value.at("family").text() == "ip6":
                found.note(value.where, f"table ip6 {value.at('name').text()}", "a scenario's addresses are IPv4")
    known = False
    for (_, name), table in tables.items():
        for layout, virtuals in ((_KUBE, _kube), (_MOBY, _moby)):
            if layout in table.maps:
                known = True
                take_virtuals(found, list(virtuals(table, found)), "pods" if layout == _KUBE else name)
    if not known:
        fix = f"the layouts of kube-proxy (a map {_KUBE}) and of moby (a map {_MOBY}) are read"
        raise document.wrong("no table has a layout that is known", fix)


class _Dump:
    """The maps and the chains of a table."""

    def __init__(self) -> None:
        self.maps: dict[str, Value] = {}
        self.chains: dict[str, list[Value]] = {}

    def take(self, kind: str, value: Value) -> None:
        if kind == "map":
            self.maps[value.at("name").text()] = value
        else:
            self.chains.setdefault(value.at("chain").text(), []).append(value)

    def elements(self, name: str) -> list[MapElement]:
        return [_element(each) for each in self.maps[name].at("elem").items()] if name in self.maps else []

    def translations(self, chain: str, key: list[str]) -> Iterator[tuple[str, int]]:
        """Yield the addresses and ports to which a chain, and the chains that it leads to, translate."""
        waiting, seen = [chain], {chain}
        while waiting and len(seen) < _STEPS:
            for rule in self.chains.get(waiting.pop(0), []):
                for each in rule.at("expr").items():
                    for name in self._targets(each):
                        if name not in seen:
                            seen.add(name)
                            waiting.append(name)
                    yield from self._translated(each, key)

    def _targets(self, expression: Value) -> Iterator[str]:
        for verdict in ("goto", "jump"):
            if name := expression.at(verdict, "target").text():
                yield name
        data = expression.at("vmap", "data")
        for each in data.at("set").items() if isinstance(data.data, dict) else ():
            _, value = _element(each)
            yield value.at("goto", "target").text() or value.at("jump", "target").text()

    def _translated(self, expression: Value, key: list[str]) -> Iterator[tuple[str, int]]:
        target = expression.at("dnat", "addr")
        if isinstance(target.data, str):
            port = expression.at("dnat", "port")
            yield target.data, port.number(1, 65535) if port.data else 0
            return
        data = target.at("map", "data")
        elements: list[MapElement] = []
        if isinstance(data.data, str):  # the map of all services
            elements = [
                (k, v) for k, v in self.elements(data.data[1:]) if [each.text() for each in k[: len(key)]] == key
            ]
        elif data.data:
            elements = [_element(each) for each in data.at("set").items()]
        for _, value in elements:
            parts = _parts(value)
            yield parts[0].text(), parts[1].number(1, 65535) if len(parts) > 1 else 0


def _element(value: Value) -> MapElement:
    """Return the parts of an element's key, and its value."""
    pair = value.items()
    if len(pair) != 2:
        raise value.wrong("an element of a map is a key and a value")
    return _parts(pair[0]), pair[1]


def _parts(value: Value) -> list[Value]:
    """Return the parts of a key or a value: one, or several that are joined. Comments and counters are left."""
    if isinstance(value.data, dict) and "elem" in value.data:
        value = value.at("elem", "val")
    parts = value.at("concat").items() if isinstance(value.data, dict) else [value]
    if not parts:
        raise value.wrong("it is no element")
    return parts


def _kube(table: _Dump, found: Discovery) -> Iterator[Virtual]:
    for key, verdict in table.elements(_KUBE):
        if len(key) != 3:
            raise verdict.wrong("a key of service-ips is an address, a protocol and a port")
        vip, protocol, port = key[0].text(), key[1].text(), key[2].number(1, 65535)
        chain = verdict.at("goto", "target").text()
        if protocol not in _PROTOCOLS:
            raise key[1].wrong(f"{protocol!r:.20} is not tcp, udp or sctp")
        if chain.startswith("external-"):
            found.note(verdict.where, f"{vip}:{port}/{protocol}", "it is an address for clients outside the cluster")
            continue
        ends = list(dict.fromkeys(table.translations(chain, [vip, protocol, str(port)])))
        if any(number not in (0, port) for _, number in ends):
            why = "ports are not translated in a scenario; backends serve the VIP's port"
            found.note(verdict.where, f"backends' port of {vip}:{port}/{protocol}", why)
        addresses = dict.fromkeys(address for address, _ in ends if is_address(address))
        backends = [FoundBackend(verdict.where, address) for address in addresses]
        yield Virtual(verdict.where, vip, protocol, port, backends, _name(chain))
    for key, verdict in table.elements("no-endpoint-services"):
        found.note(verdict.where, ":".join(each.text() for each in key), "the Service has no endpoints; it is left out")


def _name(chain: str) -> str:
    """Return the Service's name in a chain's: service-HASH-NAMESPACE/NAME/PROTOCOL/PORT."""
    parts = chain.split("/")
    return parts[1] if len(parts) >= 3 else ""


def _moby(table: _Dump, found: Discovery) -> Iterator[Virtual]:
    virtuals: dict[str, Virtual] = {}
    for key, value in table.elements(_MOBY):
        vip, backend = key[0].text(), _parts(value)[0].text()
        virtual = virtuals.setdefault(vip, Virtual(value.where, vip, "", 0, []))
        if is_address(backend) and backend not in {each.address for each in virtual.backends}:
            virtual.backends.append(FoundBackend(value.where, backend))
    for key, value in table.elements("nat-publish-port"):
        port = "/".join(each.text() for each in key[:2])
        found.note(value.where, f"published port {port}", "a scenario has no routing mesh")
    yield from virtuals.values()
