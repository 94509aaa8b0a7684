"""Packets that the machine itself loses, so that what nobody answered is not taken for the fault of a data plane.

Namespaces share two things with everybody else on the machine. One limit holds for the neighbours of all of them
together (net/core/neighbour.c, neigh_alloc), and each processor has one queue of packets between two interfaces
(net.core.netdev_max_backlog). When one of them is full, a packet is lost, and the kernel counts it.
"""

from __future__ import annotations

from pathlib import Path

LIMIT = "net.ipv4.neigh.default.gc_thresh3"
"""The most neighbours that a machine knows, 1,024 unless it was raised. Only its first namespace has this sysctl."""
_NEIGHBOURS = Path("/proc/1/net/stat/arp_cache")  # a line of names, and one of hexadecimal numbers for each processor
_QUEUES = Path("/proc/net/softnet_stat")  # a line for each processor; the second number counts what was dropped


def neighbours_refused() -> int:
    """Return how many neighbours the machine had no room for since it started, whichever namespace needed them."""
    return sum(row.get("table_fulls", 0) for row in _rows(_NEIGHBOURS, named=True))


def packets_dropped() -> int:
    """Return how many packets the processors' queues had no room for since the machine started."""
    return sum(row.get("1", 0) for row in _rows(_QUEUES, named=False))


def _rows(path: Path, *, named: bool) -> list[dict[str, int]]:
    """Read a file of /proc. Only the machine's first network namespace, in which is process 1, has the neighbours'."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:  # it is not there, or /proc is mounted so that process 1 is hidden (proc(5), hidepid)
        return []
    names = lines.pop(0) if named and lines else [str(number) for number in range(99)]
    return [{name: int(value, 16) for name, value in zip(names, line, strict=False)} for line in lines]
