"""Perf events of kernel functions (perf_event_open(2)): kprobes."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

from dataplanes.errors import Prerequisite

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_KPROBES = Path("/sys/bus/event_source/devices/kprobe/type")
"""It exists in a kernel with kprobes (since Linux 4.17, kernel/events/core.c, perf_kprobe)."""
_CLOSE_ON_EXEC = 8
_FIX = "use --kernel guest"

_libc = ctypes.CDLL(None, use_errno=True)


class _Attr(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("type", "size")),
        *((name, ctypes.c_uint64) for name in ("config", "sample_period", "sample_type", "read_format", "flags")),
        *((name, ctypes.c_uint32) for name in ("wakeup_events", "breakpoint_type")),
        *((name, ctypes.c_uint64) for name in ("config1", "config2")),
    ]


def kprobe(function: str) -> int:
    """Return an event, on all processors, of the entries of a kernel function; -1 if it cannot be probed."""
    number = _SYSCALL.get(platform.machine())
    if number is None or not _KPROBES.exists():
        raise Prerequisite("kernel functions cannot be followed", why="the kernel has no kprobes", fix=_FIX)
    name = ctypes.c_char_p(function.encode())
    attr = _Attr(int(_KPROBES.read_text("ascii")), ctypes.sizeof(_Attr))
    attr.config1 = ctypes.cast(name, ctypes.c_void_p).value
    fd: int = _libc.syscall(number, ctypes.byref(attr), -1, 0, -1, _CLOSE_ON_EXEC)
    return fd
