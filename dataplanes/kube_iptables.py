"""The layout of kube-proxy's iptables mode as text. Pure: it knows no kernel.

The facts are of pkg/proxy/iptables/proxier.go and of the rulesets in its tests. A packet to an address, protocol and
port of the chain KUBE-SERVICES, which is searched from its beginning, goes to the service's chain KUBE-SVC-.... That
jumps to one of the endpoints' chains KUBE-SEP-... with the probability that makes all equally likely, and there the
packet is translated. A service without an endpoint has a rule in the chain KUBE-SERVICES of the filter table instead.

As in kube_nft.py, kube-proxy runs with --masquerade-all, and its comments are not there. The empty chains by which it
sees that others have flushed a table are not there either.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from dataplanes.chains import Layout
from dataplanes.filters import Entry
from dataplanes.hashes import sha256
from dataplanes.model import Port, Service

MARK = "0x4000/0x4000"
"""The mark of packets that are to be masqueraded."""
_NEW = "-m conntrack --ctstate NEW"

MASQUERADING: dict[str, tuple[str, ...]] = {
    "KUBE-MARK-MASQ": ("-j MARK --or-mark 0x4000",),
    "KUBE-POSTROUTING": (
        f"-m mark ! --mark {MARK} -j RETURN",
        "-j MARK --xor-mark 0x4000",
        "-j MASQUERADE --random-fully",
    ),
}
TO_NAT = ("PREROUTING -j KUBE-SERVICES", "OUTPUT -j KUBE-SERVICES", "POSTROUTING -j KUBE-POSTROUTING")
NAT = Layout(
    "nat",
    {
        "KUBE-SERVICES": ("-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",),
        "KUBE-NODEPORTS": (),
        **MASQUERADING,
    },
    TO_NAT,
    "KUBE-SERVICES",
)
_FORWARDING = (f"-m mark --mark {MARK} -j ACCEPT", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
_TO_FILTER = (
    f"INPUT {_NEW} -j KUBE-PROXY-FIREWALL",
    "INPUT -j KUBE-NODEPORTS",
    f"INPUT {_NEW} -j KUBE-EXTERNAL-SERVICES",
    f"FORWARD {_NEW} -j KUBE-PROXY-FIREWALL",
    "FORWARD -j KUBE-FORWARD",
    f"FORWARD {_NEW} -j KUBE-SERVICES",
    f"FORWARD {_NEW} -j KUBE-EXTERNAL-SERVICES",
    f"OUTPUT {_NEW} -j KUBE-PROXY-FIREWALL",
    f"OUTPUT {_NEW} -j KUBE-SERVICES",
)


def filtering(liberal: bool) -> Layout:
    """Return the layout of the filter table. Whether segments may be INVALID is a setting of the node."""
    chains: dict[str, tuple[str, ...]] = {
        "KUBE-SERVICES": (),
        "KUBE-EXTERNAL-SERVICES": (),
        "KUBE-FORWARD": _FORWARDING if liberal else ("-m conntrack --ctstate INVALID -j DROP", *_FORWARDING),
        "KUBE-NODEPORTS": (),
        "KUBE-PROXY-FIREWALL": (),
    }
    return Layout("filter", chains, _TO_FILTER, "KUBE-SERVICES")


def entries(services: Sequence[Service]) -> Iterator[Entry]:
    """Yield the chains and rules of services. A drained backend is no endpoint of theirs."""
    for service in services:
        endpoints = [backend.address for backend in service.backends if backend.weight]
        for port in service.ports:
            there = f"-m {port.protocol} -p {port.protocol} -d {service.vip} --dport {port.number}"
            if not endpoints:
                yield "filter", f"{there} -j REJECT"
                continue
            name = f"{service.network}/{service.name}:p{port.number}"
            target = f"KUBE-SVC-{_hashed(name, port)}"
            names = {each: f"KUBE-SEP-{_hashed(name, port, f'{each}:{port.number}')}" for each in endpoints}
            yield f"nat chain {target}", "\n".join((f"{there} -j KUBE-MARK-MASQ", *_picks([*names.values()])))
            for each, own in names.items():
                dnat = f"-m {port.protocol} -p {port.protocol} -j DNAT --to-destination {each}:{port.number}"
                yield f"nat chain {own}", f"-s {each} -j KUBE-MARK-MASQ\n{dnat}"
            yield "nat", f"{there} -j {target}"


def _picks(names: list[str]) -> Iterator[str]:
    """Yield the rules that jump to each of these chains with the same probability."""
    for left, name in zip(range(len(names), 1, -1), names, strict=False):
        yield f"-m statistic --mode random --probability {1 / left:.10f} -j {name}"
    yield f"-j {names[-1]}"


def _hashed(name: str, port: Port, endpoint: str = "") -> str:
    """Return the hash in a chain's name: iptables takes names of 28 characters."""
    return base64.b32encode(sha256(f"{name}{port.protocol}{endpoint}".encode())).decode()[:16]
