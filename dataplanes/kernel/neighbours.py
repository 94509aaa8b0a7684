"""The kernel's table of IPv4 neighbours: one for all network namespaces together, with one limit.

An entry over the limit is refused, and the packet that needed it is lost (net/core/neighbour.c, neigh_alloc). The limit
is net.ipv4.neigh.default.gc_thresh3, 1,024 unless it was raised. Only the machine's first namespace shows it.
"""

from __future__ import annotations

LIMIT = "net.ipv4.neigh.default.gc_thresh3"
_COUNTERS, _REFUSED = "/proc/net/stat/arp_cache", "table_fulls"


def refused() -> int:
    """Return how many entries were refused since the machine started, whoever needed them.

    The file has a line of names, and a line of hexadecimal numbers for each processor.
    """
    try:
        with open(_COUNTERS, encoding="ascii") as file:
            names, *processors = (line.split() for line in file)
    except FileNotFoundError:  # a kernel without CONFIG_PROC_FS's statistics of IPv4
        return 0
    return sum(int(counted[names.index(_REFUSED)], 16) for counted in processors)
