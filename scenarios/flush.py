"""What an administrator's flush removes: packet filters, IPVS and eBPF, in one namespace or in every one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

from dataplanes import classifiers
from dataplanes.errors import Prerequisite
from dataplanes.kernel import bpf, iptables, ipvs, nft
from scenarios.dns import ADDRESS, ENTRIES
from scenarios.testbed import Testbed


def flush_all(testbed: Testbed) -> dict[str, int]:
    """Flush packet filters, IPVS and eBPF in every namespace. Return in how many of them what was flushed."""
    namespaces = testbed.namespaces()
    testbed.demand_alterable([name for _, _, name in namespaces])
    found: dict[str, int] = {}
    for kind, _, name in namespaces:
        for what in flush_one(name, ENTRIES if kind == "container" else 0):
            found[what] = found.get(what, 0) + 1
    links = [bpf.detach_all(each.cgroup) for each in testbed.containers.values() if each.cgroup]
    return found | ({"links": len(links)} if any(links) else {})


def flush_one(name: str, resolver: int = 0) -> Iterator[str]:
    """Flush a namespace with so many entries of the resolver, and put back these. Yield what was flushed."""
    for table in _with_rules(name, resolver):
        ours = [rule[3:] for rule in iptables.rules(name, table) if rule.startswith("-A ") and ADDRESS in rule]
        iptables.program(name, table, ["-F", *(f"-A {rule}" for rule in ours)])
        yield table
    if nft.tables(name):
        nft.carry_out(name, "flush ruleset")
        yield "nft"
    with suppress(Prerequisite), closing(ipvs.Ipvs(name)) as balancer:  # Prerequisite: the kernel has no IPVS
        if balancer.count():
            balancer.send([balancer.flush()])
            yield "ipvs"
    yield from classifiers.detach_all(name)


def _with_rules(name: str, resolver: int) -> list[str]:
    """Return the iptables tables that have rules besides the resolver's.

    Only these are listed and flushed: each takes two programs, and every container has a resolver.
    """
    empty = iptables.EMPTY | {"nat": iptables.EMPTY["nat"] + resolver}
    with closing(iptables.Tables(name)) as tables:
        return [each for each in tables.names() if iptables.entries(tables.info(each)) > empty[each]]
