"""Facts about the namespaces of a lab, which tell why a packet was not balanced, or not answered."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from bench.documents.tracing import Fact
from dataplanes.base import DataPlane
from dataplanes.elements import Decisive
from dataplanes.follower import Sighting
from dataplanes.kernel import iptables, netns, process
from dataplanes.model import Service
from scenarios import walk
from scenarios.lab import Lab
from scenarios.testbed import Testbed

_GET_MTU = 0x8921  # SIOCGIFMTU
_OWN = "/proc/thread-self/net/"
_LOCAL = re.compile(r"\|-- ([0-9.]+)\n +/32 host LOCAL")
_NFT_BLOCK = re.compile(r"\t(\w+) (\S+) \{")
_NFT_HANDLE = re.compile(r" # handle (\d+)$")
_END = re.compile("[0-9A-F]{8}:[0-9A-F]{4}")
_ENTRIES, _MOST = (f"/proc/sys/net/netfilter/nf_conntrack_{name}" for name in ("count", "max"))


def shown(namespace: str) -> str:
    """Return the name of a namespace without the run's number."""
    return namespace.partition("-")[2]


def facts(lab: Testbed, service: Service) -> list[Fact]:
    """Return what can tell why a request to a service was not answered."""
    found = [fact for _, node, name in lab.namespaces() for fact in _of_namespace(name, node)]
    plane = _plane(lab)
    lacking = plane.lacking(service) if plane else []
    return found + [Fact(shown(site.netns), "bpf", service.vip) for site in lacking]


def rules(lab: Testbed, sightings: Sequence[Sighting]) -> list[Fact]:
    """Return the rules that have acted on a packet, and those of each nft chain that one met last before a drop."""
    names = {shown(name): name for _, _, name in lab.namespaces()}
    found: dict[Fact, None] = {}
    listed: dict[str, list[tuple[str, int, str]]] = {}
    for namespace, ruleset, number in _acted(sightings):
        if namespace not in names:
            continue  # it has gone with its container
        if " " not in ruleset:
            text = iptables.rule_at(names[namespace], ruleset, number)
            found[Fact(namespace, "rule", ruleset, text, number)] = None
            continue
        if namespace not in listed:
            listed[namespace] = list(_listed(names[namespace]))
        for name, handle, text in listed[namespace]:
            # A handle is a rule's in all its table. A chain may have a longer name than a sighting has room for.
            if (handle == number and name.startswith(ruleset)) if number else name == ruleset:
                found[Fact(namespace, "rule", ruleset, text, handle)] = None
    return list(found)


def _acted(sightings: Sequence[Sighting]) -> list[tuple[str, str, int]]:
    """Return the namespace, the ruleset and the number of each rule that has acted; 0 if it can be any of a chain."""
    last: dict[int, Sighting] = {}  # by copy
    acted: dict[tuple[str, str, int], None] = {}
    for each in sightings:
        if each.rule:
            acted[each.namespace, each.ruleset, each.rule] = None
        elif each.place == "nft_do_chain":
            last[each.copy] = each
        elif each.reason == "NETFILTER_DROP" and (chain := last.get(each.copy)):
            acted[chain.namespace, chain.ruleset, 0] = None
    return list(acted)


def _listed(netns: str) -> Iterator[tuple[str, int, str]]:
    """Yield the chain (with its table), the handle and the text of each rule of nft, without the elements of sets."""
    table = chain = ""
    rule: list[str] = []
    for line in process.run(netns, ("nft", "--handle", "--terse", "list", "ruleset")).splitlines():
        if line.startswith("table "):
            table = line.split()[2]
        elif block := _NFT_BLOCK.match(line):
            chain = block[2] if block[1] == "chain" else ""
        elif chain and line.startswith("\t\t"):
            rule.append(line.strip())  # an anonymous map with many elements has several lines
            if found := _NFT_HANDLE.search(line):
                yield f"{table} {chain}", int(found[1]), " ".join(rule)
            if found or line.startswith("\t\ttype "):
                rule.clear()


def programs(lab: Testbed, sightings: Sequence[Sighting]) -> list[Fact]:
    """Return the BPF programs in the namespaces that the flow has passed, each with the device and the hook."""
    passed = {each.namespace for each in sightings}
    plane = _plane(lab)
    there = plane.attached() if plane else ()
    found = [Fact(shown(each.netns), "program", f"{each.device} {each.hook}".strip(), each.program) for each in there]
    return [each for each in found if each.namespace in passed]


def elements(lab: Testbed, sightings: Sequence[Sighting]) -> list[Decisive]:
    """Return the elements of BPF maps that explain what became of the flow's packets."""
    ends = {end for each in sightings for end in (each.source, each.destination)}
    plane = _plane(lab)
    return list(plane.elements(ends, sightings[0].time)) if plane and sightings else []


def _plane(lab: Testbed) -> DataPlane | None:
    """Return the plane of our own lab. What a platform has programmed is asked of nobody."""
    return lab.plane if isinstance(lab, Lab) else None


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
