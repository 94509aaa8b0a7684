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
_SO_GET_ENTRIES = 65  # IPT_SO_GET_ENTRIES
_ENTRIES = struct.Struct("=32sI4x")  # struct ipt_get_entries: name, size; the entries follow
_CHAINS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")  # by NF_INET_*
_TARGET_OFFSET, _TARGET_HEAD = 88, 32  # of struct ipt_entry.target_offset, and the size of struct xt_entry_target
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


def rule_at(name: str, table: str, place: int) -> str:
    """Return the rule in whose memory a place of a table is, as `iptables -S` prints it; "" if there is none."""
    tables = Tables(name)
    try:
        chain, number = _position(tables.info(table), tables.blob(table), place)
    finally:
        tables.close()
    if not number:
        return ""
    argv = ("iptables-legacy", "--wait", "10", "-t", table, "-S", chain, str(number))
    return " ".join(process.run(name, argv).split())


def _position(info: bytes, blob: bytes, place: int) -> tuple[str, int]:
    """Return the chain of the entry at a place of a table, and its number there. A chain begins with number 1.

    A chain of the user begins with an entry whose target is ERROR and has the name (include/uapi/linux/netfilter/
    x_tables.h, struct xt_error_target). Those of the kernel begin where the table's description says.
    """
    fields = _INFO.unpack(info)
    begins = {fields[2 + hook]: _CHAINS[hook] for hook in range(len(_CHAINS)) if fields[1] >> hook & 1}
    at, chain, number = 0, "", 0
    while at < len(blob):
        target, following = struct.unpack_from("=HH", blob, at + _TARGET_OFFSET)
        size, kind = struct.unpack_from("=H30s", blob, at + target)
        if at in begins:
            chain, number = begins[at], 0
        number += 1
        if kind.startswith(b"ERROR\0"):
            named = blob[at + target + _TARGET_HEAD : at + target + size]
            chain, number = named.partition(b"\0")[0].decode("utf-8", "replace"), 0
        if at <= place < at + following:
            return chain, number
        at += following
    return "", 0


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

    def blob(self, table: str) -> bytes:
        """Return the entries of a table as the kernel has them."""
        (size,) = struct.unpack_from("=I", self.info(table), _INFO.size - 4)
        data = ctypes.create_string_buffer(_ENTRIES.pack(table.encode(), size), _ENTRIES.size + size)
        length = ctypes.c_uint(_ENTRIES.size + size)
        if _libc.getsockopt(self._socket.fileno(), socket.SOL_IP, _SO_GET_ENTRIES, data, ctypes.byref(length)):
            code = ctypes.get_errno()
            raise KernelRefused(f"table {table} cannot be read", where=self.netns, why=os.strerror(code))
        return data.raw[_ENTRIES.size :]
