"""iptables with the legacy back end, programmed in bulk. It is used only where Docker or a node's firewall uses it."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence

from dataplanes.errors import KernelRefused
from dataplanes.kernel import netlink, netns, process

_TABLES = ("mangle", "nat", "filter")
_SO_GET_INFO = 64  # IPT_SO_GET_INFO
_INFO = struct.Struct("=32sI10III")  # struct ipt_getinfo: name, hooks, their offsets, entries, bytes
EMPTY = {"filter": 4, "nat": 5, "mangle": 6, "raw": 3, "security": 4}
"""The number of entries in a table without rules: the policies of its chains, and its end."""
_libc = ctypes.CDLL(None, use_errno=True)


def program(name: str, table: str, lines: Sequence[str]) -> None:
    """Add or delete rules of one table in one transaction. Lines are `-A CHAIN ...`, `-D CHAIN ...`, `:CHAIN - [0:0]`.

    Raises KernelRefused, and changes nothing, if any line is refused (the table is replaced in one step).
    """
    text = "\n".join((f"*{table}", *lines, "COMMIT", ""))
    process.run(name, ("iptables-legacy-restore", "--noflush", "--wait", "10"), text)


def exchange(name: str, table: str, gone: Sequence[str], come: Sequence[str]) -> None:
    """Delete some rules and add others (`CHAIN ...`) in one transaction. Without any rules, nothing is done.

    A rule that somebody else has deleted counts as deleted.
    """

    def lines(gone: Sequence[str]) -> list[str]:
        return [*(f"-D {rule}" for rule in gone), *(f"-A {rule}" for rule in come)]

    if not gone and not come:
        return
    try:
        program(name, table, lines(gone))
    except KernelRefused:
        there = set(rules(name, table))
        left = [rule for rule in gone if f"-A {rule}" in there]
        if left == gone:
            raise
        if left or come:
            program(name, table, lines(left))


def rules(name: str, table: str) -> list[str]:
    """Return the rules of one table as `iptables -S` prints them: policies, chains, rules."""
    text = process.run(name, ("iptables-legacy", "--wait", "10", "-t", table, "-S"))
    return [" ".join(line.split()) for line in text.splitlines()]


def all_rules(name: str) -> dict[str, list[str]]:
    """Return the rules of every table, in the order of the article (docs/sources.md)."""
    return {table: rules(name, table) for table in _TABLES}


def entries(info: bytes) -> int:
    """Return the number of a table's entries, from the result of `Tables.info`."""
    return int(_INFO.unpack(info)[12])


class Tables:
    """Facts about a namespace's tables, read without listing them: two system calls for any number of rules."""

    def __init__(self, name: str) -> None:
        self.netns = name
        with netns.inside(name):
            self._socket = netlink.aside(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def names(self) -> list[str]:
        """Return the names of the tables that exist."""
        with netns.inside(self.netns):
            try:
                with open("/proc/thread-self/net/ip_tables_names", encoding="ascii") as file:
                    return file.read().split()
            except FileNotFoundError:  # ip_tables is not loaded
                return []

    def info(self, table: str) -> bytes:
        """Return the offsets of the table's chains, the number of entries and their size in bytes.

        The result differs after any change of the number of entries. Reading a table that does not exist creates it.
        """
        data = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
        size = ctypes.c_uint(_INFO.size)
        if _libc.getsockopt(self._socket.fileno(), socket.SOL_IP, _SO_GET_INFO, data, ctypes.byref(size)):
            code = ctypes.get_errno()
            raise KernelRefused(f"table {table} cannot be read", where=self.netns, why=os.strerror(code))
        return data.raw
