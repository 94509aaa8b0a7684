"""The kernel state of a lab by namespace: connection entries, and the objects that the plane has programmed."""

from __future__ import annotations

import glob
import os
from contextlib import suppress

from bench.documents import Figures, Held
from dataplanes.kernel import sysctl
from scenarios.testbed import Testbed

CONNECTIONS = {"conntrack entries": "nf_conntrack", "ipvs connections": "ip_vs_conn"}
"""Kinds of connection entries, and the slab cache of each."""


def held(testbed: Testbed) -> list[Held]:
    """Return all kernel state of the testbed. The planes' own objects are those in their footprint."""
    kinds = {name: kind for kind, _, name in testbed.namespaces()}
    told = [(each.netns, each.kind, each.objects, each.bytes) for each in testbed.footprint()]
    found = [each for each in told if each[1] != "conntrack entries"]  # these are counted for all namespaces below
    found += [(name, "conntrack entries", _conntrack(name), None) for name in kinds]
    sizes = {what: _object_size(cache) for what, cache in CONNECTIONS.items()}
    return [
        Held(kinds[name], name.partition("-")[2], what, objects, objects * sizes.get(what, 0) or size or 0)
        if name in kinds
        else Held("host", name, what, objects, size or 0)  # BPF maps are in no namespace, so they count for the node
        for name, what, objects, size in found
        if objects
    ]


def sums(state: list[Held]) -> Figures:
    """Return the connection entries of the whole lab, their memory in bytes, and the number of IPVS's threads."""
    of = {what: [each for each in state if each.what == what] for what in CONNECTIONS}
    return {
        "conntrack_entries": sum(each.objects for each in of["conntrack entries"]),
        "ipvs_entries": sum(each.objects for each in of["ipvs connections"]),
        "slab_bytes": sum(each.bytes for entries in of.values() for each in entries),
        "kthreads": _kthreads(),
    }


def _conntrack(name: str) -> int:
    return int(sysctl.value(name, "net.netfilter.nf_conntrack_count") or 0)


def _object_size(cache: str) -> int:
    """Return the bytes of one object in a slab cache, even a merged one (mm/slub.c); 0 if there is no such cache."""
    with suppress(OSError), open(f"/sys/kernel/slab/{cache}/slab_size", encoding="ascii") as file:
        return int(file.read())
    return 0


def _kthreads() -> int:
    """Return the number of IPVS's kernel threads.

    Since Linux 6.2 a namespace with services has one or more (ip_vs_est.c).
    """
    total = 0
    for path in glob.glob(f"{os.environ.get('BENCH_PROC', '/proc')}/[0-9]*/comm"):  # see bench/kernels/keep.c
        with suppress(FileNotFoundError, ProcessLookupError), open(path, encoding="ascii", errors="replace") as file:
            total += file.read().startswith("ipvs-")
    return total
