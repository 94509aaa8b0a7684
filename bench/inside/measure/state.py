"""What a lab holds in the kernel, namespace by namespace: connection entries, and what the plane has programmed."""

from __future__ import annotations

import glob
import os
from contextlib import suppress

from bench.documents import Figures, Held
from dataplanes.kernel import sysctl
from scenarios.lab import Lab

CONNECTIONS = {"conntrack entries": "nf_conntrack", "ipvs connections": "ip_vs_conn"}
"""Kinds of connection entries, and the slab cache each is allocated from."""


def held(lab: Lab) -> list[Held]:
    """Everything that is there at all, planes' own objects as their footprint tells them."""
    kinds = {name: kind for kind, _, name in lab.namespaces()}
    told = [(each.netns, each.kind, each.objects, each.bytes) for each in (lab.plane.footprint() if lab.plane else [])]
    found = [each for each in told if each[1] != "conntrack entries"]  # of which all namespaces are asked
    found += [(name, "conntrack entries", _conntrack(name), None) for name in kinds]
    sizes = {what: _object_size(cache) for what, cache in CONNECTIONS.items()}
    return [
        Held(kinds[name], name.partition("-")[2], what, objects, objects * sizes.get(what, 0) or size or 0)
        if name in kinds
        else Held("host", name, what, objects, size or 0)  # BPF maps are in no namespace: it is the node that has them
        for name, what, objects, size in found
        if objects
    ]


def sums(state: list[Held]) -> Figures:
    """Connection entries in all the lab, their memory, and IPVS's threads."""
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
    """Bytes an object takes of a slab cache, also of one merged with others (mm/slub.c); 0 where it is not there."""
    with suppress(OSError), open(f"/sys/kernel/slab/{cache}/slab_size", encoding="ascii") as file:
        return int(file.read())
    return 0


def _kthreads() -> int:
    """IPVS's kernel threads: since Linux 6.2 one and more per namespace with services (ip_vs_est.c)."""
    total = 0
    for path in glob.glob(f"{os.environ.get('BENCH_PROC', '/proc')}/[0-9]*/comm"):  # see bench/kernels/keep.c
        with suppress(FileNotFoundError, ProcessLookupError), open(path, encoding="ascii", errors="replace") as file:
            total += file.read().startswith("ipvs-")
    return total
