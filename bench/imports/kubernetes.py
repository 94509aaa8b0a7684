"""Kubernetes objects: Services, with backends of EndpointSlices, of Endpoints or of workloads that they select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bench.imports.found import Discovery, FoundBackend, FoundService
from bench.imports.marked import Value

NETWORK = "pods"
_MOST = 1000
_WORKLOADS = ("Deployment", "StatefulSet", "ReplicaSet", "ReplicationController", "DaemonSet")
_PROTOCOLS = ("tcp", "udp", "sctp")
_DEFAULTS = {
    "sessionAffinity": ("", "None"),
    "externalTrafficPolicy": ("", "Cluster"),
    "internalTrafficPolicy": ("", "Cluster"),
    "trafficDistribution": ("",),
    "publishNotReadyAddresses": ("", "false"),
}
"""Fields of a Service that change who answers, each with the values that are as in a scenario."""
_OUTSIDE = ("externalIPs", "loadBalancerIP", "loadBalancerSourceRanges", "externalName")
ObjectName = tuple[str, str]
Labelled = tuple[str, dict[str, str], Value]
"""A namespace, the labels of the containers there, and the object that has them made."""


def is_kubernetes(document: Value) -> bool:
    """Report whether a document is a Kubernetes object."""
    return isinstance(document.data, dict) and {"apiVersion", "kind"} <= set(document.data)


def discover(documents: list[Value], found: Discovery) -> None:
    """Add the nodes and the services of Kubernetes objects. Services and their backends may be in different files."""
    objects = [each for document in documents for each in _objects(document)]
    backends: dict[ObjectName, list[FoundBackend]] = {}
    services: list[Value] = []
    workloads: list[Value] = []
    for each in objects:
        kind = each.at("kind").text()
        if kind == "Service":
            services.append(each)
        elif kind == "EndpointSlice":
            _slice(each, backends, found)
        elif kind == "Endpoints":
            _endpoints(each, backends, found)
        elif kind in _WORKLOADS:
            workloads.append(each)
        elif kind == "Node":
            found.node(each.at("metadata", "name").text())
        else:
            found.note(each.where, kind or "an object without a kind", "it is no Service, and has no backends of one")
    keys = [_key(each) for each in services]
    names = Counter(name for _, name in keys)
    selectable = [_labelled(each) for each in workloads]
    for each in services:
        namespace, name = _key(each)
        _service(each, name if names[name] == 1 else f"{name}-{namespace}", backends, selectable, found)
    known = set(keys)
    for (namespace, name), lost in backends.items():
        if (namespace, name) not in known and lost:
            found.note(lost[0].where, f"endpoints of {namespace}/{name}", "there is no such Service in the files")


def _objects(document: Value) -> Iterator[Value]:
    """Yield an object, or the items of a list of them."""
    if document.at("kind").text().endswith("List"):
        yield from document.at("items").items()
    else:
        yield document


def _key(value: Value) -> ObjectName:
    return value.at("metadata", "namespace").text() or "default", value.at("metadata", "name").text()


def _labelled(value: Value) -> Labelled:
    labels = value.at("spec", "template", "metadata", "labels").fields()
    return _key(value)[0], {key: each.text() for key, each in labels.items()}, value


def _slice(value: Value, backends: dict[ObjectName, list[FoundBackend]], found: Discovery) -> None:
    namespace, name = _key(value)
    service = value.at("metadata", "labels", "kubernetes.io/service-name").text()
    if not service:
        found.note(value.where, f"EndpointSlice {name}", "it has no label kubernetes.io/service-name")
        return
    known = backends.setdefault((namespace, service), [])
    kind = value.at("addressType").text()
    if kind not in ("", "IPv4"):
        found.note(value.where, f"EndpointSlice {name}", f"its addresses are {kind}, and a scenario's are IPv4")
        return
    for each in value.at("endpoints").items():
        _endpoint(each, known, found)


def _endpoint(value: Value, known: list[FoundBackend], found: Discovery) -> None:
    addresses = value.at("addresses").items()
    address = addresses[0].text() if addresses else ""
    if not address:
        raise value.wrong("an endpoint needs an address")
    node = value.at("nodeName").text()
    found.node(node)
    conditions = {key: each.text() for key, each in value.at("conditions").fields().items()}
    weight = 1
    if conditions.get("ready") == "false":
        if conditions.get("serving") != "true":
            found.note(value.where, f"endpoint {address}", "it is not ready; it is left out")
            return
        weight = 0  # it ends, and still serves established connections
    if address not in {each.address for each in known}:  # a slice for each set of ports has it again
        known.append(FoundBackend(value.where, address, node, weight))


def _endpoints(value: Value, backends: dict[ObjectName, list[FoundBackend]], found: Discovery) -> None:
    known = backends.setdefault(_key(value), [])
    for subset in value.at("subsets").items():
        for each in subset.at("addresses").items():
            address, node = each.at("ip").text(), each.at("nodeName").text()
            found.node(node)
            if address and address not in {one.address for one in known}:
                known.append(FoundBackend(each.where, address, node))
        for each in subset.at("notReadyAddresses").items():
            found.note(each.where, f"endpoint {each.at('ip').text()}", "it is not ready; it is left out")


def _service(
    value: Value, name: str, backends: dict[ObjectName, list[FoundBackend]], workloads: list[Labelled], found: Discovery
) -> None:
    spec = value.at("spec")
    if not name:
        raise value.wrong("a Service needs a name")
    vip = spec.at("clusterIP").text()
    if spec.at("type").text() == "ExternalName" or vip == "None":
        found.note(value.where, f"Service {name}", "it has no VIP; it is left out")
        return
    if ":" in vip:
        found.note(spec.at("clusterIP").where, f"clusterIP {vip}", "a scenario's VIPs are IPv4; it gets one")
        vip = ""
    made = FoundService(name, value.where, NETWORK, vip, _ports(spec, name, found))
    found.network(NETWORK, value.where)
    for key, usual in _DEFAULTS.items():
        if spec.at(key).text() not in usual:
            why = "a scenario's services have no such rule"
            found.note(spec.at(key).where, f"{key} {spec.at(key).text()} of {name}", why)
    for key in _OUTSIDE:
        if spec.at(key).data:
            found.note(spec.at(key).where, f"{key} of {name}", "a scenario's clients are containers")
    if _key(value) in backends:
        made.backends = backends[_key(value)]
    else:
        _select(value, made, workloads, found)
    found.services.append(made)


def _ports(spec: Value, name: str, found: Discovery) -> list[str]:
    made: list[str] = []
    for each in spec.at("ports").items():
        number, protocol = each.at("port").number(1, 65535), (each.at("protocol").text() or "tcp").lower()
        if protocol not in _PROTOCOLS:
            raise each.at("protocol").wrong(f"{protocol!r:.20} is not TCP, UDP or SCTP")
        if f"{number}/{protocol}" not in made:
            made.append(f"{number}/{protocol}")
        target = each.at("targetPort").text()
        if target not in ("", str(number)):
            why = "ports are not translated in a scenario; backends serve the Service's port"
            found.note(each.at("targetPort").where, f"targetPort {target} of {name}", why)
        if each.at("nodePort").text() not in ("", "0"):
            found.note(each.at("nodePort").where, f"nodePort of {name}", "a scenario's clients are containers")
    return made


def _select(value: Value, made: FoundService, workloads: list[Labelled], found: Discovery) -> None:
    """Give a service the replicas of the workloads that it selects."""
    selector = {key: each.text() for key, each in value.at("spec", "selector").fields().items()}
    namespace, _ = _key(value)
    chosen = [
        each
        for place, labels, each in (workloads if selector else ())
        if place == namespace and selector.items() <= labels.items()
    ]
    for each in chosen:
        made.everywhere |= each.at("kind").text() == "DaemonSet"
        given = each.at("spec", "replicas")
        made.replicas += 1 if given.data is None else given.number(0, _MOST)
    if not chosen:
        found.note(
            value.where,
            f"backends of {made.name}",
            "no EndpointSlice, and no workload that it selects, is in the files",
        )
