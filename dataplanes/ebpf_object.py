"""Compiled eBPF programs. bcc compiles the C files of dataplanes/bpf once, and the result is cached.

An object holds maps and programs. The programs refer to the maps by index until they are loaded. They use only
structures of the user API, so an object fits every kernel; compilation only needs some kernel's headers.

    python -m dataplanes.ebpf_object socket tc    compiles; BCC_KERNEL_SOURCE names the headers
"""

from __future__ import annotations

import os
import re
import struct
import sys
from ctypes import sizeof
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from dataplanes import files
from dataplanes.errors import BenchError, Prerequisite
from dataplanes.hashes import sha256
from dataplanes.kernel import bpf, distribution
from dataplanes.paths import cache

_SOURCES = Path(__file__).parent / "bpf"
_SCHED_CLS, _CGROUP_SOCK_ADDR = 3, 18
_KPROBE, _RAW_TRACEPOINT = 2, 17
_KEYLESS = (22, 23)  # BPF_MAP_TYPE_QUEUE and BPF_MAP_TYPE_STACK
_LOAD_IMMEDIATE, _MAP_FD = 0x18, 1  # BPF_LD | BPF_IMM | BPF_DW, BPF_PSEUDO_MAP_FD

PROGRAMS: dict[str, dict[str, tuple[int, int]]] = {
    "socket": {
        "on_connect4": (_CGROUP_SOCK_ADDR, bpf.CONNECT4),
        "on_connect6": (_CGROUP_SOCK_ADDR, bpf.CONNECT6),
        "on_sendmsg4": (_CGROUP_SOCK_ADDR, bpf.SENDMSG4),
        "on_recvmsg4": (_CGROUP_SOCK_ADDR, bpf.RECVMSG4),
        "on_recvmsg6": (_CGROUP_SOCK_ADDR, bpf.RECVMSG6),
        "on_getpeername4": (_CGROUP_SOCK_ADDR, bpf.GETPEERNAME4),
        "on_getpeername6": (_CGROUP_SOCK_ADDR, bpf.GETPEERNAME6),
    },
    "tc": dict.fromkeys(("from_container", "make_room", "to_container"), (_SCHED_CLS, 0)),
    "redirect": dict.fromkeys(("from_container", "make_room", "from_wire"), (_SCHED_CLS, 0)),
    "short": dict.fromkeys(("from_container", "from_wire"), (_SCHED_CLS, 0)),
    "trace": {
        **dict.fromkeys(("on_entry", "on_rule", "on_free"), (_KPROBE, 0)),
        **dict.fromkeys(("on_receive", "on_queue", "on_drop", "on_consume"), (_RAW_TRACEPOINT, 0)),
    },
}
"""Object -> program -> (BPF_PROG_TYPE_*, attach type)."""

_MOST = 16 << 20
_SERVICES = ("services", "turns", "counts")
_CONNECTIONS = ("ends", "flows", "vacant", "programs", "fragments", "settings", "tally")
_MAPS = {
    "socket": (*_SERVICES, "vips", "flows"),
    "tc": (*_SERVICES, *_CONNECTIONS, "bridge"),
    "redirect": (*_SERVICES, *_CONNECTIONS, "bridge", "stations", "every"),
    "short": ("stations",),
    "trace": (
        *("layouts", "places", "namespaces", "packets", "flows", "sockets", "datagrams", "evaluated"),
        *("vips", "lost", "spendings", "events"),
    ),
}


class MapSpec(Struct, frozen=True):
    """A map as the program declares it. Its capacity is chosen when it is created."""

    name: str
    kind: int  # BPF_MAP_TYPE_*
    key_size: int
    value_size: int
    flags: int


class Object(Struct, frozen=True):
    """Maps and programs. The instructions refer to a map by its index."""

    maps: list[MapSpec]
    programs: dict[str, bytes]


class Loaded:
    """An object in the kernel, with empty maps."""

    def __init__(self, name: str, capacities: dict[str, int]) -> None:
        """Load an object. Raises Prerequisite if it was not compiled, and KernelRefused if the kernel refuses it."""
        found = compiled(name)
        self.maps: dict[str, bpf.Map] = {}
        self.programs: dict[str, int] = {}
        try:
            for spec in found.maps:
                sizes = (spec.kind, spec.key_size, spec.value_size, capacities[spec.name], spec.flags)
                self.maps[spec.name] = bpf.Map(spec.name, *sizes)
            fds = {index: self.maps[spec.name].fd for index, spec in enumerate(found.maps)}
            for program, instructions in found.programs.items():
                kind, attach_type = PROGRAMS[name][program]
                self.programs[program] = bpf.load(program, kind, attach_type, with_maps(instructions, fds))
        except BenchError:
            self.close()
            raise

    def close(self) -> None:
        """Close the maps and programs. Attached programs stay attached. Idempotent."""
        for each in self.maps.values():
            each.close()
        for fd in self.programs.values():
            os.close(fd)
        self.programs.clear()


def cached(name: str) -> Path:
    """Return the path of the object in the cache. The file's name holds the hash of its source."""
    return cache() / "bpf" / (f"{name}-{sha256(_source(name).encode()).hex()[:12]}.json")


def compiled(name: str) -> Object:
    """Return the compiled object. Raises Prerequisite if there is none."""
    found = kept(name)
    if found is None:
        fix = "every `bench` command with an eBPF plane compiles it before it starts"
        raise Prerequisite(f"{name}.c is not compiled", where=str(cached(name)), fix=fix)
    return found


def kept(name: str) -> Object | None:
    """Return the compiled object, or None if it is missing or damaged."""
    return files.kept(cached(name), Object, _MOST)


def compile_object(name: str) -> Object:
    """Compile with bcc. bcc also creates the maps, so it needs root (CAP_BPF), and kernel headers.

    Raises Prerequisite without bcc or headers, and BenchError if the source does not compile.
    """
    try:
        with distribution.modules():
            from bcc import BPF  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise Prerequisite("bcc's Python binding is not installed", fix="apt-get install python3-bpfcc") from error
    try:
        module = BPF(text=_source(name), cflags=["-w"])  # headers newer than bcc's clang cause many warnings
    except Exception as error:  # bcc raises bare Exceptions
        why = f"{error}; headers: {os.environ.get('BCC_KERNEL_SOURCE') or 'the running kernel'}"
        raise BenchError(f"{name}.c does not compile", why=why) from error
    tables = {each: module[each] for each in _MAPS[name]}
    indexes = {tables[each].map_fd: index for index, each in enumerate(_MAPS[name])}
    maps = [_spec(module, each, table) for each, table in tables.items()]
    # Replace the descriptor of each map that bcc created by the map's index.
    programs = {each: with_maps(module.dump_func(each.encode()), indexes) for each in PROGRAMS[name]}
    return Object(maps, programs)


def _source(name: str) -> str:
    """Return the source as one text. bcc translates `map.lookup()` in the main file only, not in included files."""
    text = (_SOURCES / f"{name}.c").read_text("utf-8")
    return re.sub(r'#include "(.+)"', lambda found: (_SOURCES / found[1]).read_text("utf-8"), text)


def _spec(module: Any, name: str, table: Any) -> MapSpec:
    from bcc import lib  # type: ignore[import-not-found, unused-ignore]

    identity = lib.bpf_table_id(module.module, name.encode())
    flags = lib.bpf_table_flags_id(module.module, identity)
    kind = lib.bpf_table_type_id(module.module, identity)
    key_size = 0 if kind in _KEYLESS else sizeof(table.Key)
    return MapSpec(name, kind, key_size, sizeof(table.Leaf), flags)


def with_maps(instructions: bytes, values: dict[int, int]) -> bytes:
    """Return a program with other references to its maps: descriptors in place of indexes, or the other way round."""
    code = bytearray(instructions)
    for at in range(0, len(code), 8):
        operation, registers = code[at], code[at + 1]
        if operation == _LOAD_IMMEDIATE and registers >> 4 == _MAP_FD:
            (value,) = struct.unpack_from("=i", code, at + 4)
            struct.pack_into("=i", code, at + 4, values[value])
    return bytes(code)


def main(names: list[str]) -> int:
    """Compile each object and write it to the event channel, or else to stdout: one line of JSON, {name: object}."""
    channel = int(os.environ.get("BENCH_EVENTS_FD", "1"))
    for name in names:
        with open(channel, "wb", closefd=False) as file:
            file.write(msgspec.json.encode({name: compile_object(name)}) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
