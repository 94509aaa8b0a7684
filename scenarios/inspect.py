"""The document's walk: every namespace, command by command, with what the data plane added or took away marked.

The lab is built without a plane and looked at, then the plane is put on and it is looked at again.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dataplanes.base import DataPlane
from dataplanes.kernel import netns, process
from scenarios.lab import Lab

_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("ip", "address"),
    ("ip", "route"),
    ("ip", "route", "show", "table", "local", "proto", "static"),  # VIPs that are routes and no addresses
    ("ip", "neighbour"),
    ("bridge", "fdb"),
    ("iptables-legacy", "-t", "nat", "-S"),
    ("iptables-legacy", "-t", "mangle", "-S"),
    ("iptables-legacy", "-t", "filter", "-S"),
    ("nft", "list", "ruleset"),
    ("ipvsadm", "-Ln"),
)
_SHOWN_AS = {"iptables-legacy": "iptables"}
_SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.send_redirects",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.vs.conntrack",
    "net.ipv4.vs.conn_reuse_mode",
    "net.ipv4.vs.expire_nodest_conn",
    "net.ipv4.vs.expire_quiescent_template",
)
_OF_INTERFACES = ("accept_local", "arp_announce", "arp_ignore", "send_redirects")  # told where not the default

Snapshot = dict[str, dict[str, list[str]]]
"""Namespace -> command -> lines."""


def report(lab: Lab, make: Callable[[Lab], DataPlane]) -> dict[str, Any]:
    """Walk a lab that has no plane yet, put one on, walk it again.

    Returns {"namespaces": [{"name", "kind", "node", "sections": [{"command", "lines": [[mark, text]]}]}]} where mark is
    "+" for what the plane added, "-" for what it took away, " " for the rest.
    """
    commands = _present()
    before = _look(lab, commands)
    lab.install(make)
    after = _look(lab, commands)
    return {
        "namespaces": [
            {"name": name, "kind": kind, "node": node, "sections": list(_sections(before.get(name, {}), after[name]))}
            for kind, node, name in lab.namespaces()
        ]
        + _held(lab)
    }


def _held(lab: Lab) -> list[dict[str, Any]]:
    """What the plane says it holds in the kernel: BPF maps are in no namespace, and no walk comes by them."""
    assert lab.plane
    held = [
        f"{each.netns}: {each.kind}: {each.objects}" + (f", {each.bytes:,} bytes" if each.bytes else "")
        for each in lab.plane.footprint()
    ]
    lines = [["+", line] for line in held]
    return [
        {"name": lab.plane.name, "kind": "plane", "node": "all", "sections": [{"command": "footprint", "lines": lines}]}
    ]


def walk(lab: Lab) -> dict[str, Any]:
    """The walk through a lab as it is, nothing marked."""
    found = _look(lab, _present())
    return {
        "namespaces": [
            {"name": name, "kind": kind, "node": node, "sections": list(_sections(found[name], found[name]))}
            for kind, node, name in lab.namespaces()
        ]
    }


def _present() -> list[tuple[str, ...]]:
    return [argv for argv in _COMMANDS if shutil.which(argv[0], path="/usr/sbin:/usr/bin:/sbin:/bin")]


def _look(lab: Lab, commands: list[tuple[str, ...]]) -> Snapshot:
    return {name: dict(_walk(name, commands)) for _, _, name in lab.namespaces()}


def _walk(name: str, commands: list[tuple[str, ...]]) -> Iterator[tuple[str, list[str]]]:
    for argv in commands:
        shown = " ".join((_SHOWN_AS.get(argv[0], argv[0]), *argv[1:]))
        text = process.run(name, argv, accept=range(256))
        yield shown, [line.rstrip() for line in text.splitlines()]
    yield "tc filter", list(_filters(name))
    yield "sysctl", list(_sysctls(name))


def _filters(name: str) -> Iterator[str]:
    """The filters on interfaces that have the qdisc which does nothing but carry them (tc-bpf(8))."""
    for qdisc in _tc(name, "qdisc", "show"):
        if qdisc["kind"] == "clsact":
            for way in ("ingress", "egress"):
                for each in _tc(name, "filter", "show", "dev", qdisc["dev"], way):
                    if program := each.get("options", {}).get("bpf_name"):
                        yield f"{qdisc['dev']} {way}: {each['kind']} {program}"


def _tc(name: str, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(process.run(name, ("tc", "-j", *argv)))
    return found


def _sysctls(name: str) -> Iterator[str]:
    with netns.inside(name):
        for key in _SYSCTLS:
            value = _sysctl(key.replace(".", "/"))
            if value is not None:
                yield f"{key} = {value}"
        for key in _OF_INTERFACES:
            usual = _sysctl(f"net/ipv4/conf/default/{key}")
            for interface in sorted({*os.listdir("/proc/sys/net/ipv4/conf")} - {"all", "default"}):
                value = _sysctl(f"net/ipv4/conf/{interface}/{key}")
                if value != usual:
                    yield f"net.ipv4.conf.{interface}.{key} = {value}"


def _sysctl(path: str) -> str | None:
    try:
        return Path("/proc/sys", path).read_text("ascii").strip()
    except OSError:
        return None


def _sections(before: dict[str, list[str]], after: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    for command, lines in after.items():
        marked = [[each[0], each[2:]] for each in difflib.ndiff(before.get(command, []), lines) if each[0] in "+- "]
        if marked:
            yield {"command": command, "lines": marked}


def text(report: dict[str, Any]) -> str:
    """The walk as it is read: each namespace's prompt and command, then its lines, marked."""
    parts = []
    for namespace in report["namespaces"]:
        parts.append(f"##### {namespace['kind']} {namespace['name']} on {namespace['node']}")
        for section in namespace["sections"]:
            parts.append(f"{namespace['name']}# {section['command']}")
            parts += [f"{mark} {line}".rstrip() for mark, line in section["lines"]]
        parts.append("")
    return "\n".join(parts).rstrip()
