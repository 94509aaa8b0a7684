"""What is left of a service that is removed, in every namespace."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial

from dataplanes.kernel import ipvs, netns, nft, process
from dataplanes.kernel.rtnl import Rtnl
from scenarios.checks import check
from scenarios.checks.world import CLIENT, VISITOR, Differs, World


@check("change.leaves-nothing", "derived matrix 18", protocols=("tcp", "udp"))
def leaves_nothing(world: World) -> str:
    """After a service is removed, every namespace has the addresses, routes, rules and IPVS services it had before.

    No connection entry leads from the removed VIP to its backends.
    """
    before = _state(world)
    with world.service("worker1", "worker2") as probe:
        own = (probe.vip, [world.address(task) for task in probe.tasks])
        for client in (CLIENT, VISITOR):
            world.ask(client, probe.vip)
            world.heard(client, probe.vip)
    after = _state(world, own)
    nothing: set[str] = set()  # of a namespace or a map that was not there
    left = [f"{line} ({where})" for where, lines in after.items() for line in lines - before.get(where, nothing)]
    gone = [f"{line} ({where})" for where, lines in before.items() for line in lines - after.get(where, nothing)]
    if left or gone:
        raise Differs(
            f"left: {'; '.join(sorted(left)[:3]) or 'nothing'}; gone: {'; '.join(sorted(gone)[:3]) or 'nothing'}"
        )
    return f"{len(before)} views of {len(world.namespaces())} namespaces unchanged"


def _state(world: World, removed: tuple[str, list[str]] | None = None) -> dict[str, set[str]]:
    """Return the kernel's state per namespace and view.

    Of connections it has those from a removed VIP to its backends.
    """
    found: dict[str, set[str]] = {}
    for _, _, name in world.namespaces():
        with Rtnl(name) as rtnl:
            own = [each for each in rtnl.addresses() if each["family"] == socket.AF_INET]  # IPv6 makes its own
            found[f"{name}: addresses"] = {f"{a.get_attr('IFA_LOCAL')} index {a['index']}" for a in own}
            found[f"{name}: routes"] = {f"{r.get_attr('RTA_DST')} table {r['table']}" for r in rtnl.routes()}
        rules = list(_rules(name))
        found[f"{name}: rules"] = {line for line in rules if not _EXPIRES.search(line)}
        found[f"{name}: nft connections"] = set(_elements(rules, removed)) if removed else set()
        for path in ("ip_vs_conn", "nf_conntrack"):
            found[f"{name}: {path}"] = _connections(partial(_proc_lines, name, path), removed) if removed else set()
        found[f"{name}: ip_vs"] = set(_virtual(name)) if os.path.exists(_IPVS) else set()
    for name in world.tracked():
        entries = partial(_tracked, world, name)
        found[f"{name}: connections of a program"] = _connections(entries, removed) if removed else set()
    for held in world.footprint():
        if held.kind in ("bpf map services", "bpf map turns", "bpf map counts"):
            found[f"{held.netns}: {held.kind}"] = {f"{held.objects} elements"}
    return found


_IPVS = "/proc/net/ip_vs"
"""A file of every namespace, if the kernel has loaded IPVS."""


def _virtual(name: str) -> Iterator[str]:
    """Yield the services and destinations of IPVS.

    Netlink tells them in one piece, and /proc does not. Connections are not counted: those of earlier checks end at any
    time.
    """
    with closing(ipvs.Ipvs(name)) as balancer:
        for each in balancer.services():
            yield f"{each.key}"
            yield from (f"{each.key} -> {to.address} {to.forward} {to.weight}" for to in each.destinations)


_EXPIRES = re.compile(r" expires \w+")
"""What nft shows of an element with a time-out: connections are remembered in such elements."""


def _elements(rules: Sequence[str], removed: tuple[str, list[str]]) -> Iterator[str]:
    """Yield the elements with a time-out that have the VIP and a backend."""
    vip, backends = removed
    for element in filter(_EXPIRES.search, rules):
        words = set(element.split())
        if vip in words and words & set(backends):
            yield _EXPIRES.sub("", element).strip()


def _rules(name: str) -> Iterator[str]:
    """Yield the rules of packet filters. A program is started only if the kernel says that there are rules."""
    tables = _proc_lines(name, "ip_tables_names")
    if tables:
        for line in process.run(name, ("iptables-legacy-save",)).splitlines():
            if line.startswith("-A"):
                yield line
    if nft.tables(name):
        yield from nft_parts(process.run(name, ("nft", "list", "ruleset"), accept=range(256)))


_COUNTED = re.compile(r"\bcounter packets \d+ bytes \d+")


def nft_parts(text: str) -> Iterator[str]:
    """Yield the lines of a ruleset, and each element of a set or map by itself, without what traffic has counted."""
    for line in text.splitlines():
        for part in line.strip().removeprefix("elements = {").removesuffix("}").split(","):
            if told := _COUNTED.sub("counter", part).strip():
                yield told


def _proc_lines(name: str, path: str) -> list[str]:
    with netns.inside(name), suppress(OSError), open(f"/proc/thread-self/net/{path}", encoding="ascii") as file:
        return file.read().splitlines()
    return []


_SOON = 1.0
"""Seconds in which the kernel forgets connections of removed destinations.

IPVS does so after the removal, in the background (net/netfilter/ipvs/ip_vs_ctl.c, expire_nodest_conn_handler).
"""


def _connections(lines: Callable[[], Iterable[str]], removed: tuple[str, list[str]]) -> set[str]:
    """Return the lines with the VIP and a backend that do not vanish soon."""
    deadline = time.monotonic() + _SOON
    while (found := set(leading(lines(), removed))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _tracked(world: World, name: str) -> Sequence[str]:
    return world.tracked()[name]


_WORD = re.compile(r"[^\s=,()]+")


def leading(lines: Iterable[str], removed: tuple[str, list[str]]) -> Iterator[str]:
    """Yield the lines with the VIP and a backend, which are decimal (conntrack) or hexadecimal (IPVS)."""
    vip, backends = removed
    for line in lines:
        words = set(_WORD.findall(line))
        if {vip, _hex(vip)} & words and {each for b in backends for each in (b, _hex(b))} & words:
            yield " ".join(line.split()[:8])


def _hex(address: str) -> str:
    return "".join(f"{int(part):02X}" for part in address.split("."))
