"""Facts about the namespaces of a lab, which tell why a packet was not balanced, or not answered."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from bench.documents.tracing import Fact
from dataplanes.follower import Sighting
from dataplanes.kernel import netns, process
from dataplanes.model import Service
from scenarios import walk
from scenarios.lab import Lab

_GET_MTU = 0x8921  # SIOCGIFMTU
_OWN = "/proc/thread-self/net/"
_LOCAL = re.compile(r"\|-- ([0-9.]+)\n +/32 host LOCAL")
_END = re.compile("[0-9A-F]{8}:[0-9A-F]{4}")
_ENTRIES, _MOST = (f"/proc/sys/net/netfilter/nf_conntrack_{name}" for name in ("count", "max"))


def shown(namespace: str) -> str:
    """Return the name of a namespace without the run's number."""
    return namespace.partition("-")[2]


def facts(lab: Lab, service: Service) -> list[Fact]:
    """Return what can tell why a request to a service was not answered."""
    found = [fact for _, node, name in lab.namespaces() for fact in _of_namespace(name, node)]
    lacking = lab.plane.lacking(service) if lab.plane else []
    return found + [Fact(shown(site.netns), "bpf", service.vip) for site in lacking]


def rules(lab: Lab, sightings: Sequence[Sighting]) -> list[Fact]:
    """Return the rules of each nft chain that was evaluated last before a packet was dropped, with their handles."""
    names = {shown(name): name for _, _, name in lab.namespaces()}
    last: dict[int, Sighting] = {}  # by copy
    found: dict[Fact, None] = {}
    for each in sightings:
        if each.place == "nft_do_chain":
            last[each.copy] = each
        elif each.reason == "NETFILTER_DROP" and (chain := last.get(each.copy)):
            listed = _listed(names[chain.namespace], *chain.ruleset.split(" ", 1))
            found |= dict.fromkeys(Fact(chain.namespace, "rule", chain.ruleset, rule) for rule in listed)
    return list(found)


def _listed(netns: str, table: str, chain: str) -> list[str]:
    """Return the rules of a chain. A name may be that of a chain in several families."""
    text = ""
    for family in ("ip", "inet", "bridge"):
        text += process.run(netns, ("nft", "-a", "list", "chain", family, table, chain), accept=range(256))
    return [line.strip() for line in text.splitlines() if line.startswith("\t\t") and "# handle" in line]


def ipvs(namespaces: Sequence[str]) -> list[Fact]:
    """Return the services of IPVS in some namespaces."""
    found = []
    for name in namespaces:
        with netns.inside(name):
            found += [Fact(shown(name), "ipvs", *each) for each in _services()]
    return found


def _of_namespace(name: str, node: str) -> Iterator[Fact]:
    with netns.inside(name):
        for address in dict.fromkeys(_LOCAL.findall(_content(_OWN + "fib_trie"))):
            yield Fact(shown(name), "address", address, node)
        for line in _content(_OWN + "arp").splitlines()[1:]:
            address, _, _, mac, _, device = line.split()
            yield Fact(shown(name), "neighbour", f"{address} {device}", mac)
        for device, mtu in _mtus():
            yield Fact(shown(name), "mtu", device, str(mtu))
        for service in _services():
            yield Fact(shown(name), "ipvs", *service)
        entries = _content(_ENTRIES).strip()
        if entries:
            yield Fact(shown(name), "conntrack", entries, _content(_MOST).strip())
    for line in walk.sysctls(name):
        key, _, value = line.partition(" = ")
        yield Fact(shown(name), "sysctl", key, value)


def _mtus() -> Iterator[tuple[str, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for _, device in socket.if_nameindex():
            with suppress(OSError):  # it is gone since it was listed
                answer = fcntl.ioctl(handle, _GET_MTU, struct.pack("16si20x", device.encode(), 0))
                yield device, struct.unpack("16si20x", answer)[1]


def _services() -> Iterator[tuple[str, str]]:
    """Yield what selects each IPv4 service of IPVS, and its destinations (net/netfilter/ipvs/ip_vs_ctl.c)."""
    found: dict[str, list[str]] = {}
    present: list[str] = []
    for line in _content(_OWN + "ip_vs").splitlines():
        kind, end = (*line.split(), "", "")[:2]
        if kind == "->" and _END.fullmatch(end):
            present.append(_end(end))
        elif kind == "FWM":
            present = found[f"mark {int(end, 16):#x}"] = []
        elif _END.fullmatch(end):
            present = found[f"{kind.lower()} {_end(end)}"] = []
    for name, destinations in found.items():
        yield name, ", ".join(destinations)


def _end(text: str) -> str:
    """Return ADDRESS:PORT of IPVS's hexadecimal form."""
    address, _, port = text.partition(":")
    return f"{socket.inet_ntoa(bytes.fromhex(address))}:{int(port, 16)}"


def _content(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
