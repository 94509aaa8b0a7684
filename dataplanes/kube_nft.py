"""The nftables layouts of kube-proxy as text. Pure: it knows no kernel.

The facts are of KEP-3866, pkg/proxy/nftables/proxier.go and its test, and of the threads that the knob names. All
layouts begin alike: a packet to an address, protocol and port of @service-ips goes to the chain that its element names.

    chains    service-... picks one of the chains endpoint-..., and that translates. A chain for each service, and one
              for each of its endpoints: Kubernetes 1.31 to 1.35
    maps      service-... picks an endpoint from a map of its own, and translates: 1.36 (kubernetes/kubernetes#136499)
    one-map   dispatch-N, which all services of N endpoints share, notes a number below N as the connection's mark, and
              translates by the map @endpoints of all services: proposed (kubernetes/kubernetes#139513, #140362)

kube-proxy runs with --masquerade-all: clients and backends are neighbours here, so a backend would answer its client
past the node. The rule that drops packets to unallocated service addresses is not there, because VIPs are addresses of
the containers' own subnet; kube-proxy does not write it either if it is told no service CIDR. Its comments are not
there, and the table has the name that a network's table has here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from dataplanes.base import Site
from dataplanes.chains import chain
from dataplanes.filters import Entry
from dataplanes.hashes import sha256
from dataplanes.model import Port, Service
from dataplanes.nft_rules import spelled, table_name

MARK = "0x4000"
"""The mark of packets that are to be masqueraded."""
_LONGEST = 240  # characters of a name without its prefix
_KEY = "ipv4_addr . inet_proto . inet_service"
_DESTINATION = "ip daddr . meta l4proto . th dport"


def base(site: Site, layout: str) -> list[str]:
    """Return the part of a site's table that does not depend on services."""
    table = f"ip {table_name(site.network)}"
    sets = {"set cluster-ips": "ipv4_addr", "set nodeport-ips": "ipv4_addr"}
    if layout != "chains":
        sets["set hairpin-connections"] = f"ipv4_addr . {_KEY}"
    sets |= {f"map {name}": f"{_KEY} : verdict" for name in ("firewall-ips", "no-endpoint-services", "service-ips")}
    sets |= {f"map {name}": "inet_proto . inet_service : verdict" for name in _OF_NODEPORTS}
    if layout == "one-map":
        sets["map endpoints"] = f"{_KEY} . mark : ipv4_addr . inet_service"
    lines = [f"create table {table}"]
    for each, kind in sets.items():
        what, name = each.split()
        lines.append(f"add {what} {table} {name} {{ type {kind}; }}")
    marking = ["mark-for-masquerade"] if layout == "chains" else []
    lines += [f"add chain {table} {name}" for name in (*_CHAINS, *marking)]
    for name, (kind, hook, priority) in _HOOKS.items():
        lines.append(f"add chain {table} {name} {{ type {kind} hook {hook} priority {priority}; }}")
    lines += [f"add rule {table} {rule}" for rule in (*_RULES, *_masquerading(layout), *_DISPATCH)]
    return [*lines, f"add element {table} nodeport-ips {{ {site.address} }}"]


_OF_NODEPORTS = ("no-endpoint-nodeports", "service-nodeports")
_CHAINS = (
    "cluster-ips-check",
    "firewall-check",
    "masquerading",
    "nodeport-endpoints-check",
    "reject-chain",
    "service-endpoints-check",
    "services",
)
_HOOKS = {
    "filter-prerouting-pre-dnat": ("filter", "prerouting", -110),
    "filter-output-pre-dnat": ("filter", "output", -110),
    "filter-forward": ("filter", "forward", 0),
    "filter-input": ("filter", "input", 0),
    "filter-output": ("filter", "output", 0),
    "nat-output": ("nat", "output", -100),
    "nat-postrouting": ("nat", "postrouting", 100),
    "nat-prerouting": ("nat", "prerouting", -100),
}
_RULES = (
    "cluster-ips-check ip daddr @cluster-ips reject",
    "filter-prerouting-pre-dnat ct state new jump firewall-check",
    "filter-forward ct state new jump service-endpoints-check",
    "filter-forward ct state new jump cluster-ips-check",
    "filter-input ct state new jump nodeport-endpoints-check",
    "filter-input ct state new jump service-endpoints-check",
    "filter-output ct state new jump service-endpoints-check",
    "filter-output-pre-dnat ct state new jump firewall-check",
    "filter-output ct state new jump cluster-ips-check",
    f"firewall-check {_DESTINATION} vmap @firewall-ips",
    "nat-output jump services",
    "nat-postrouting jump masquerading",
    "nat-prerouting jump services",
    "nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
    "reject-chain reject",
    f"service-endpoints-check {_DESTINATION} vmap @no-endpoint-services",
)
_DISPATCH = (
    f"services {_DESTINATION} vmap @service-ips",
    "services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
)


def _masquerading(layout: str) -> tuple[str, ...]:
    if layout == "chains":
        return (
            f"mark-for-masquerade mark set mark or {MARK}",
            f"masquerading mark and {MARK} == 0 return",
            f"masquerading mark set mark xor {MARK}",
            "masquerading masquerade fully-random",
        )
    hairpin = "ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections"
    return (
        f"masquerading mark and {MARK} != 0 mark set mark xor {MARK} masquerade fully-random",
        f"masquerading ct status dnat {hairpin} masquerade fully-random",
        f"services ip daddr @cluster-ips mark set mark or {MARK}",
    )


def entries(layout: str, services: Sequence[Service]) -> Iterator[Entry]:
    """Yield the chains and elements of services. A drained backend is no endpoint of theirs."""
    for service in services:
        yield "cluster-ips", service.vip
        endpoints = [backend.address for backend in service.backends if backend.weight]
        for port in service.ports:
            key = f"{service.vip} . {port.protocol} . {port.number}"
            if not endpoints:
                yield "no-endpoint-services", f"{key} : goto reject-chain"
                continue
            target, made = _PICKING[layout](service, port, endpoints, key)
            yield from made
            yield "service-ips", f"{key} : goto {target}"
            if layout != "chains":
                of_port = f"{port.protocol} . {port.number}"
                yield from (("hairpin-connections", f"{each} . {each} . {of_port}") for each in endpoints)


def _by_chains(service: Service, port: Port, endpoints: list[str], key: str) -> tuple[str, list[Entry]]:
    names = {each: f"endpoint-{_hashed(f'{_base(service, port)}__{each}/{port.number}')}" for each in endpoints}
    target = f"service-{_hashed(_base(service, port))}"
    picks = " , ".join(f"{number} : goto {name}" for number, name in enumerate(names.values()))
    masquerade = f"ip daddr {service.vip} jump mark-for-masquerade"
    made = [chain(target, masquerade, f"numgen random mod {len(endpoints)} vmap {{ {picks} }}")]
    for each, name in names.items():
        hairpin = f"ip saddr {each} jump mark-for-masquerade"
        made.append(chain(name, hairpin, f"meta l4proto {port.protocol} dnat to {each}:{port.number}"))
    return target, made


def _by_maps(service: Service, port: Port, endpoints: list[str], key: str) -> tuple[str, list[Entry]]:
    target = f"service-{_hashed(_base(service, port))}"
    picks = " , ".join(f"{number} : {each} . {port.number}" for number, each in enumerate(endpoints))
    number = f"numgen random mod {len(endpoints)}"
    return target, [chain(target, f"meta l4proto {port.protocol} dnat ip addr . port to {number} map {{ {picks} }}")]


def _by_one_map(service: Service, port: Port, endpoints: list[str], key: str) -> tuple[str, list[Entry]]:
    target = f"dispatch-{len(endpoints)}"
    number = f"ct mark set numgen random mod {len(endpoints)}"
    picking = chain(target, f"{number} dnat ip addr . port to {_DESTINATION} . ct mark map @endpoints")
    slots = [f"{key} . {number} : {each} . {port.number}" for number, each in enumerate(endpoints)]
    return target, [picking, *(("endpoints", each) for each in slots)]


_PICKING = {"chains": _by_chains, "maps": _by_maps, "one-map": _by_one_map}


def _base(service: Service, port: Port) -> str:
    """Return the name of a service's port: namespace, service, protocol and the port's own name."""
    return f"{spelled(service.network)}/{spelled(service.name)}/{port.protocol}/p{port.number}"


def _hashed(name: str) -> str:
    """Return a name behind the beginning of its hash, and cut short if it is too long for nftables."""
    found = base64.b32encode(sha256(name.encode())).decode()[:8] + f"-{name}"
    return found if len(found) <= _LONGEST else f"{found[: _LONGEST - 3]}..."
