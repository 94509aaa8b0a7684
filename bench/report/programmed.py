"""What a balancer has programmed on one node, told by names, so that two implementations can be compared line by line.

`python -m bench.report.programmed` reads what `bench inspect --json` prints, and writes what is programmed where the
client is: on its node, in the overlay and load-balancer namespaces, and in its container. Addresses, marks and ports
are chosen anew each time, and stand there by what they are of. What differs by itself is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

import msgspec

_CLIENT, _NETWORK = "my-busybox.1", "my-network"
_ALONE = "32"  # the prefix length of a VIP
_INET = re.compile(r"\s+inet ([\d.]+)/(\d+) .*?(\S+)$")
_MARKED = re.compile(r"-d ([\d.]+)/32 .*--set-x?mark (0x[0-9a-f]+)")
_SERVICE, _DESTINATION = re.compile(r"\s*FWM +(\d+) "), re.compile(r"\s*-> ([\d.]+):\d+ +(\S+) +(\d+)")
_ADDRESS, _MAC = re.compile(r"(?<![\d.])\d+\.\d+\.\d+\.\d+(?![\d.])"), re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_MARK = re.compile(r"0x[0-9a-f]+(?=/0xffffffff)")
_PORT = re.compile(r"(?<=127\.0\.0\.11:)\d{2,}|(?<=--sport )\d{2,}")
_NUMBERED = re.compile(r" link-netnsid \d+")
_KINDS = ("host", "overlay", "lb", "container")

Section = tuple[str, str]
"""A kind of namespace, and a command."""
Sections = dict[Section, list[str]]


def programmed(report: Mapping[str, Any]) -> Sections:
    """Return the lines of each section, for the client's node, out of a walk (scenarios.walk)."""
    namespaces = report["namespaces"]
    client = next(each for each in namespaces if _role(each) == _CLIENT)
    names = _Names(namespaces)
    found: Sections = {}
    for kind in _KINDS:
        for each in namespaces:
            if each is client if kind == "container" else _is_of(each, kind, client["node"]):
                for section in each["sections"]:
                    told = [
                        *_told(
                            kind, section["command"], [text for mark, text in section["lines"] if mark != "-"], names
                        )
                    ]
                    if told:
                        found[kind, section["command"]] = told
    return found


def text(found: Sections) -> str:
    """Return what is programmed as text, which `parsed` reads."""
    return "".join(
        f"## {kind}: {command}\n" + "".join(f"{x}\n" for x in lines) for (kind, command), lines in found.items()
    )


def parsed(content: str) -> Sections:
    """Return what is programmed out of its text."""
    found: Sections = {}
    for line in content.splitlines():
        if line.startswith("## "):
            kind, _, command = line[3:].partition(": ")
            found[kind, command] = []
        else:
            found[kind, command].append(line)
    return found


def compared(one: Sections, other: Sections) -> Iterator[str]:
    """Yield the lines that only one of two has, by sections: `-` for the first and `+` for the second."""
    for section in sorted(one.keys() | other.keys(), key=lambda each: (_KINDS.index(each[0]), each[1])):
        mine, its = one.get(section, []), other.get(section, [])
        lines = [f"-{each}" for each in mine if each not in its] + [f"+{each}" for each in its if each not in mine]
        if lines:
            yield f"@@ {section[0]}: {section[1]} @@"
            yield from lines


class _Names:
    """What each address and each mark is of."""

    def __init__(self, namespaces: Sequence[Mapping[str, Any]]) -> None:
        self.addresses: dict[str, str] = {}
        self.marks: dict[int, str] = {}
        balancers = []
        for each in namespaces:
            for address, length, interface in _inet(each):
                if each["kind"] == "container" and interface.startswith("eth") and interface != "eth1":
                    self.addresses.setdefault(address, _role(each))
                elif each["kind"] == "host" and interface == "eth0":
                    self.addresses[address] = each["node"]
                elif each["kind"] == "lb" and length != _ALONE and interface != "lo":
                    self.addresses[address] = f"lb.{each['node']}"
            if each["kind"] == "lb":
                balancers.append(each)
        for each in balancers:
            self._learn(each)

    def _learn(self, balancer: Mapping[str, Any]) -> None:
        """Learn whose VIP and whose mark there are in a balancer: those of the service that the destinations are of."""
        vips = {
            int(m[2], 16): m[1] for line in _lines(balancer, "iptables -t mangle -S") if (m := _MARKED.search(line))
        }
        mark = 0
        for line in _lines(balancer, "ipvsadm -Ln"):
            if service := _SERVICE.match(line):
                mark = int(service[1])
            elif (to := _DESTINATION.match(line)) and to[1] in self.addresses:
                self.marks[mark] = self.addresses[to[1]].rpartition(".")[0]
                if mark in vips:
                    self.addresses[vips[mark]] = f"VIP({self.marks[mark]})"

    def put(self, line: str) -> str:
        """Return a line with names in the places of what is chosen anew."""
        line = _PORT.sub("PORT", line)
        line = _ADDRESS.sub(lambda found: self.addresses.get(found[0], found[0]), line)
        line = _MARK.sub(lambda found: self._mark(int(found[0], 16), found[0]), line)
        line = _MAC.sub(lambda found: f"mac({self._by_mac(found[0])})", line)
        return _NUMBERED.sub("", line)

    def _mark(self, number: int, shown: str) -> str:
        return f"mark({self.marks[number]})" if number in self.marks else shown

    def _by_mac(self, mac: str) -> str:
        address = str(IPv4Address(bytes.fromhex(mac.replace(":", ""))[2:]))
        return self.addresses.get(address, "")

    def service(self, mark: str) -> str:
        return self._mark(int(mark), mark)


def _is_of(namespace: Mapping[str, Any], kind: str, node: str) -> bool:
    """Return True for a node's namespace of a kind, if that is of the client's network or of none."""
    own = (namespace["kind"], namespace["node"]) == (kind, node)
    return own and (kind == "host" or _role(namespace).endswith(f".{_NETWORK}"))


def _role(namespace: Mapping[str, Any]) -> str:
    """Return the name of a namespace without the run's."""
    return str(namespace["name"]).partition("-")[2]


def _lines(namespace: Mapping[str, Any], command: str) -> Iterator[str]:
    for section in namespace["sections"]:
        if section["command"] == command:
            yield from (line for mark, line in section["lines"] if mark != "-")


def _inet(namespace: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for line in _lines(namespace, "ip address"):
        if found := _INET.match(line):
            yield found[1], found[2], found[3]


def _told(kind: str, command: str, lines: Iterable[str], names: _Names) -> Iterator[str]:
    """Yield what a section tells of what was programmed."""
    if command == "ip address":
        inet = [found for line in lines if (found := _INET.match(line)) and found[3] != "lo"]
        yield from sorted(names.put(f"{found[1]}/{found[2]} on {found[3]}") for found in inet)
    elif command == "ip neighbour":
        yield from sorted(names.put(line.strip()) for line in lines if line.endswith("PERMANENT"))
    elif command == "bridge fdb":
        yield from sorted(names.put(line.strip()) for line in lines if " dst " in line)
    elif command.startswith("iptables"):
        yield from (names.put(line.strip()) for line in lines if not line.strip().endswith(" ACCEPT") or "-A" in line)
    elif command == "ipvsadm -Ln":
        yield from _services(lines, names)
    elif command != "ip route" or kind != "host":
        yield from (names.put(line.strip()) for line in lines)


def _services(lines: Iterable[str], names: _Names) -> Iterator[str]:
    """Yield the virtual services, each with its destinations, by their names."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if service := _SERVICE.match(line):
            found[name := f"FWM {names.service(service[1])} {line.split()[2]}"] = []
        elif to := _DESTINATION.match(line):
            found[name].append(names.put(f"{name} -> {to[1]} {to[2]} {to[3]}"))
    for name in sorted(found):
        yield from sorted(found[name]) or [name]


def main() -> None:
    """Read a walk from stdin, and write what is programmed to stdout."""
    sys.stdout.write(text(programmed(msgspec.json.decode(sys.stdin.buffer.read()))))


if __name__ == "__main__":
    main()
