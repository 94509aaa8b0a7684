"""The article's walk: every namespace, command by command, with marks for what the data plane added or removed.

The lab is built and shown without a plane. Then the plane is put on, and the lab is shown again.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dataplanes import classifiers
from dataplanes.base import DataPlane
from dataplanes.kernel import netns, process
from scenarios.lab import Lab
from scenarios.testbed import Testbed

# iptables-legacy and ipvsadm are not run where they have nothing to show.
_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ip", "address"),
    ("ip", "route"),
    ("ip", "route", "show", "table", "local", "proto", "static"),  # VIPs that are routes and not addresses
    ("ip", "neighbour"),
    ("bridge", "fdb"),
    ("iptables-legacy", "-t", "nat", "-S"),
    ("iptables-legacy", "-t", "mangle", "-S"),
    ("iptables-legacy", "-t", "filter", "-S"),
    ("nft", "list", "ruleset"),
    ("ipvsadm", "-Ln"),
)
_CARRIERS = {"clsact": ("ingress", "egress"), "ingress": ("ingress",)}
_SHOWN_AS = {"iptables-legacy": "iptables"}
_SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.send_redirects",
    "net.bridge.bridge-nf-call-iptables",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.ipv4.vs.conntrack",
    "net.ipv4.vs.conn_reuse_mode",
    "net.ipv4.vs.expire_nodest_conn",
    "net.ipv4.vs.expire_quiescent_template",
)
_OF_INTERFACES = ("accept_local", "arp_announce", "arp_ignore", "send_redirects")  # shown if not the default

Snapshot = dict[str, dict[str, list[str]]]
"""Namespace -> command -> lines."""


def report(lab: Lab, make: Callable[[Lab], DataPlane]) -> dict[str, Any]:
    """Walk through a lab that has no plane yet, put one on, and walk through it again.

    Return {"namespaces": [{"name", "kind", "node", "sections": [{"command", "lines": [[mark, text]]}]}]}. The mark is
    "+" for lines that the plane added, "-" for lines that it removed, and " " for others: lines that were there before,
    lines that change by themselves, and in a namespace that the plane created the lines of any new namespace.
    """
    commands = _present()
    before = _look(lab, commands)
    blank = lab.fabric.namespace("blank")
    new = dict(_walk(blank, commands))
    lab.fabric.drop_namespace(blank)
    lab.install(make)
    after = _look(lab, commands)
    return {
        "namespaces": [
            {"name": name, "kind": kind, "node": node, "sections": list(_sections(before.get(name, new), after[name]))}
            for kind, node, name in lab.namespaces()
        ]
        + _held(lab)
    }


def _held(lab: Lab) -> list[dict[str, Any]]:
    """Return the kernel state that the plane reports. BPF maps are in no namespace, so the walk does not show them."""
    assert lab.plane
    held = [
        f"{each.netns}: {each.kind}: {each.objects}" + (f", {each.bytes:,} bytes" if each.bytes else "")
        for each in lab.plane.footprint()
    ]
    lines = [["+", line] for line in held]
    return [
        {"name": lab.plane.name, "kind": "plane", "node": "all", "sections": [{"command": "footprint", "lines": lines}]}
    ]


def walk(testbed: Testbed) -> dict[str, Any]:
    """Walk through a testbed as it is, without marks."""
    found = _look(testbed, _present())
    return {
        "namespaces": [
            {"name": name, "kind": kind, "node": node, "sections": list(_sections(found[name], found[name]))}
            for kind, node, name in testbed.namespaces()
        ]
    }


def _present() -> list[tuple[str, ...]]:
    return [argv for argv in _COMMANDS if shutil.which(argv[0], path="/usr/sbin:/usr/bin:/sbin:/bin")]


def _look(testbed: Testbed, commands: list[tuple[str, ...]]) -> Snapshot:
    return {name: dict(_walk(name, commands)) for _, _, name in testbed.namespaces()}


def _walk(name: str, commands: list[tuple[str, ...]]) -> Iterator[tuple[str, list[str]]]:
    for argv in commands:
        shown = " ".join((_SHOWN_AS.get(argv[0], argv[0]), *argv[1:]))
        text = process.run(name, argv, accept=range(256)) if _has(name, argv) else ""
        yield shown, [line.rstrip() for line in text.splitlines()]
    yield "tc filter", list(_filters(name))
    yield "sysctl", list(sysctls(name))


def _has(name: str, argv: tuple[str, ...]) -> bool:
    """Return False if the command would create what it lists.

    iptables creates the table that it lists, and a nat table switches connection tracking on
    (net/ipv4/netfilter/iptable_nat.c). ipvsadm loads IPVS.
    """
    with netns.inside(name):
        if argv[0] == "iptables-legacy":
            return argv[2] in _content("/proc/thread-self/net/ip_tables_names").split()
        return argv[0] != "ipvsadm" or os.path.exists("/proc/thread-self/net/ip_vs")


def _filters(name: str) -> Iterator[str]:
    """Yield the programs on interfaces: by TCX, which tc does not show, and on a qdisc for filters (tc-bpf(8))."""
    for interface, way, _, program in classifiers.links(name):
        yield f"{interface} {way}: tcx {program}"
    for qdisc in _tc(name, "qdisc", "show"):
        for way in _CARRIERS.get(qdisc["kind"], ()):
            for each in _tc(name, "filter", "show", "dev", qdisc["dev"], way):
                if program := each.get("options", {}).get("bpf_name"):
                    yield f"{qdisc['dev']} {way}: {each['kind']} {program}"


def _tc(name: str, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(process.run(name, ("tc", "-j", *argv)))
    return found


def sysctls(name: str) -> Iterator[str]:
    """Yield the settings of a namespace that decide about VIPs, as `key = value`."""
    with netns.inside(name):
        for key in _SYSCTLS:
            value = _sysctl(key.replace(".", "/"))
            if value is not None:
                yield f"{key} = {value}"
        for key in _OF_INTERFACES:
            usual = _sysctl(f"net/ipv4/conf/default/{key}")
            for interface in sorted({*os.listdir("/proc/sys/net/ipv4/conf")} - {"all", "default"}):
                value = _sysctl(f"net/ipv4/conf/{interface}/{key}")
                if value not in (usual, None):  # None: the interface is gone since it was listed
                    yield f"net.ipv4.conf.{interface}.{key} = {value}"


def _sysctl(path: str) -> str | None:
    try:
        return Path("/proc/sys", path).read_text("ascii").strip()
    except OSError:
        return None


def _content(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except OSError:
        return ""


_UNORDERED = ("ip neighbour", "bridge fdb", "tc filter", "sysctl")
"""Listings with one line for each object, whose order has no meaning."""
_BY_ITSELF = re.compile(
    r" state \w+|NO-CARRIER,|,LOWER_UP"  # ip address: as links come up
    r"|(?<=link-netns )\S+|(?<=link-netnsid )\d+"
    r"|(?<=packets )\d+|(?<=bytes )\d+"  # nft
    r"|( +\d+){2}$"  # ipvsadm: the connections of a destination
)


def _sections(before: dict[str, list[str]], after: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    for command, lines in after.items():
        compare = _things if command in _UNORDERED else _lines
        if marked := compare(before.get(command, []), lines):
            yield {"command": command, "lines": marked}


def _things(before: list[str], after: list[str]) -> list[list[str]]:
    """Mark the lines of an unordered listing: first the lines of `after`, then the lines that are gone."""
    learned = [line for line in after if _learned(line)]
    left = Counter(before)
    marked = []
    for line in after:
        known = left[line] > 0 or line in learned
        left[line] -= 1
        marked.append([" " if known else "+", line])
    return marked + [["-", line] for line, count in left.items() for _ in range(count) if not _learned(line)]


def _learned(line: str) -> bool:
    """Return True for a neighbour or a station that the kernel learned from traffic."""
    return (" lladdr " in line and not line.endswith(("PERMANENT", "NOARP"))) or line.endswith(("FAILED", "INCOMPLETE"))


def _lines(before: list[str], after: list[str]) -> list[list[str]]:
    """Mark the lines of two texts. States and counters, which change by themselves, are not compared."""
    keys = [[_BY_ITSELF.sub("", line) for line in text] for text in (before, after)]
    marked = []
    for same, i1, i2, j1, j2 in difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if same == "equal":
            marked += [[" ", line] for line in after[j1:j2]]
        else:
            marked += [["-", line] for line in before[i1:i2]] + [["+", line] for line in after[j1:j2]]
    return marked


def text(report: dict[str, Any]) -> str:
    """Return the walk as text: each namespace's prompt and command, and then its lines with their marks."""
    parts = []
    for namespace in report["namespaces"]:
        parts.append(f"##### {namespace['kind']} {namespace['name']} on {namespace['node']}")
        for section in namespace["sections"]:
            parts.append(f"{namespace['name']}# {section['command']}")
            parts += [f"{mark} {line}".rstrip() for mark, line in section["lines"]]
        parts.append("")
    return "\n".join(parts).rstrip()
