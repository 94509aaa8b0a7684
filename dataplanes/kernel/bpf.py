"""The bpf() system call: maps, programs, links (include/uapi/linux/bpf.h).

bcc compiles the programs (dataplanes/ebpf_object.py), and this module loads them. Loading through bcc would take its
whole compiler into every process, which costs seconds in an emulated guest.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable, Iterator, Sequence

from dataplanes.errors import KernelRefused, Prerequisite

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD = 0, 1, 2, 3, 4, 5
_LOOKUP_AND_DELETE, _TRACEPOINT_OPEN = 21, 17
_PROG_BY_ID, _OBJECT_INFO, _LINK_BY_ID, _NEXT_LINK, _LINK_DETACH = 13, 15, 30, 31, 34
_PROG_QUERY, _LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH, _LINK_CREATE = 16, 24, 26, 27, 28
_BATCH = 4096
_LOG = 1 << 20
_QUERY_EFFECTIVE = 1
CONNECT4, CONNECT6, SENDMSG4 = 10, 11, 14  # BPF_CGROUP_*
RECVMSG4, RECVMSG6, GETPEERNAME4, GETPEERNAME6 = 19, 20, 29, 30
TCX = {"ingress": 46, "egress": 47}  # BPF_TCX_*
_LINK_TCX = 11  # BPF_LINK_TYPE_*
_PERF_EVENT = 41  # the attach type of kprobes and breakpoints
_LOOPBACK = 1  # its index in every namespace

_libc = ctypes.CDLL(None, use_errno=True)


class _MapCreate(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32)
        for name in ("type", "key_size", "value_size", "max_entries", "flags", "inner_map_fd", "numa_node")
    ] + [("name", ctypes.c_char * 16)]


class _Element(ctypes.Structure):
    _fields_ = [
        ("fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("in_batch", "out_batch", "keys", "values")),
        *((name, ctypes.c_uint32) for name in ("count", "fd")),
        *((name, ctypes.c_uint64) for name in ("elem_flags", "flags")),
    ]


class _ProgLoad(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("type", "count")),
        *((name, ctypes.c_uint64) for name in ("instructions", "license")),
        *((name, ctypes.c_uint32) for name in ("log_level", "log_size")),
        ("log", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("kern_version", "prog_flags")),
        ("name", ctypes.c_char * 16),
        *((name, ctypes.c_uint32) for name in ("ifindex", "attach_type")),
    ]


class _LinkCreate(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("prog_fd", "target_fd", "attach_type", "flags")]


class _LinkEvent(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("prog_fd", "target_fd", "attach_type", "flags")),
        ("cookie", ctypes.c_uint64),
    ]


class _OpenTracepoint(ctypes.Structure):
    _fields_ = [("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32)]


class _ProgQuery(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("target_fd", "attach_type", "query_flags", "attach_flags")),
        ("prog_ids", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("count", "padding")),
        *((name, ctypes.c_uint64) for name in ("prog_flags", "link_ids", "link_flags", "revision")),
    ]


class _LinkInfo(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("type", "id", "program", "padding")),
        (
            "target",
            ctypes.c_uint64,
        ),  # the cgroup's ID, or TCX's interface index and attach type
        ("attach_type", ctypes.c_uint32),
    ]

    def attached(self) -> bool:
        """Return True if its target exists and nobody has detached it."""
        return bool(self.target & 0xFFFFFFFF if self.type == _LINK_TCX else self.target)


class _ProgInfo(ctypes.Structure):
    _fields_ = [("before", ctypes.c_uint8 * 64), ("name", ctypes.c_char * 16)]


class _Ids(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("id", "next", "flags")]


class _ObjectInfo(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_uint32), ("size", ctypes.c_uint32), ("info", ctypes.c_uint64)]


def _call(command: int, attr: ctypes.Structure) -> int:
    """Make the system call. Return its result, or minus errno."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise Prerequisite(
            "no eBPF planes on this machine", why=f"its bpf() system call ({platform.machine()}) is unknown"
        )
    result: int = _libc.syscall(number, command, ctypes.byref(attr), ctypes.sizeof(attr))
    return result if result >= 0 else -ctypes.get_errno()


def _refused(what: str, where: str, code: int, detail: str = "") -> KernelRefused:
    why = os.strerror(-code) + (f": {detail}" if detail else "")
    return KernelRefused(what, where=where, why=why)


class Map:
    """A BPF map from keys to values of fixed sizes, as bytes.

    The kernel removes it once it is closed and no program uses it.
    """

    def __init__(self, name: str, kind: int, key_size: int, value_size: int, capacity: int, flags: int) -> None:
        """Create the map. Raises KernelRefused if the kernel has no such map type or no memory."""
        self.name, self.key_size, self.value_size, self.capacity = name, key_size, value_size, capacity
        attr = _MapCreate(kind, key_size, value_size, capacity, flags, 0, 0, name.encode()[:15])
        self.fd = _call(_MAP_CREATE, attr)
        if self.fd < 0:
            raise _refused("BPF map refused", name, self.fd)

    def close(self) -> None:
        """Close the map. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def update(self, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Set elements in bulk. Raises KernelRefused; the elements before the refused one are then set."""
        for start in range(0, len(items), _BATCH):
            part = items[start : start + _BATCH]
            keys, values = b"".join(key for key, _ in part), b"".join(value for _, value in part)
            code, done = self._batch(_UPDATE_BATCH, keys, values, len(part))
            if code < 0:
                full = code in (-errno.E2BIG, -errno.ENOSPC)
                detail = f"it holds {self.capacity:,}" if full else ""
                raise _refused(f"element {start + done} of BPF map {self.name} refused", self.name, code, detail)

    def get(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Return those of these elements that exist."""
        found = []
        value = ctypes.create_string_buffer(self.value_size)
        for key in keys:
            code = _call(_LOOKUP, _Element(self.fd, _address(key), _address(value), 0))
            if code == 0:
                found.append((key, value.raw))
            elif code != -errno.ENOENT:
                raise _refused(f"BPF map {self.name} cannot be read", self.name, code)
        return found

    def put(self, key: bytes | None, value: bytes) -> None:
        """Set one element of a map that takes no bulk updates. A stack's element has no key. Raises KernelRefused."""
        code = _call(_UPDATE, _Element(self.fd, _address(key), _address(value), 0))
        if code < 0:
            raise _refused(f"element of BPF map {self.name} refused", self.name, code)

    def pop(self) -> bytes | None:
        """Remove the oldest element of a queue and return it, or None if the queue is empty."""
        value = ctypes.create_string_buffer(self.value_size)
        code = _call(_LOOKUP_AND_DELETE, _Element(self.fd, 0, _address(value), 0))
        if code == -errno.ENOENT:
            return None
        if code < 0:
            raise _refused(f"BPF map {self.name} cannot be read", self.name, code)
        return value.raw

    def delete(self, keys: Iterable[bytes]) -> None:
        """Delete elements. A missing element is no error."""
        for key in keys:
            self.remove(key)

    def remove(self, key: bytes) -> bool:
        """Delete an element. Return False if it was missing."""
        code = _call(_DELETE, _Element(self.fd, _address(key), 0, 0))
        if code < 0 and code != -errno.ENOENT:
            raise _refused(f"deletion from BPF map {self.name} refused", self.name, code)
        return code >= 0

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every element, in batches. An element that moves meanwhile may be missed or yielded twice."""
        position: ctypes.Array[ctypes.c_char] | None = None
        room = _BATCH
        while True:
            keys, values = (ctypes.create_string_buffer(room * size) for size in (self.key_size, self.value_size))
            after = ctypes.create_string_buffer(max(self.key_size, 8))
            attr = _Batch(_address(position), _address(after), _address(keys), _address(values), room, self.fd, 0, 0)
            code = _call(_LOOKUP_BATCH, attr)
            if code == -errno.ENOSPC:  # a hash bucket has more elements than fit
                room *= 2
                continue
            if code < 0 and code != -errno.ENOENT:  # ENOENT: that was the last batch
                raise _refused(f"BPF map {self.name} cannot be read", self.name, code)
            yield from zip(
                _cut(keys, self.key_size, attr.count), _cut(values, self.value_size, attr.count), strict=True
            )
            if code < 0:
                return
            position = after

    def _batch(self, command: int, keys: bytes, values: bytes, count: int) -> tuple[int, int]:
        attr = _Batch(0, 0, _address(keys), _address(values), count, self.fd, 0, 0)
        return _call(command, attr), attr.count


def _cut(data: ctypes.Array[ctypes.c_char], size: int, count: int) -> list[bytes]:
    whole = data.raw  # one copy of everything, instead of one per element
    return [whole[start : start + size] for start in range(0, count * size, size)]


def load(name: str, kind: int, attach_type: int, instructions: bytes) -> int:
    """Load a program and return its descriptor. Raises KernelRefused with the last lines of the verifier."""
    log = ctypes.create_string_buffer(1)
    license_ = b"Dual BSD/GPL\0"
    attr = _ProgLoad(kind, len(instructions) // 8, _address(instructions), _address(license_), name=name.encode()[:15])
    attr.attach_type = attach_type
    fd = _call(_PROG_LOAD, attr)
    if fd < 0:
        log = ctypes.create_string_buffer(_LOG)
        attr.log_level, attr.log_size, attr.log = 1, _LOG, _address(log)
        fd = _call(_PROG_LOAD, attr)
    if fd < 0:
        words = [line for line in log.value.decode("utf-8", "replace").splitlines() if not line.startswith("processed")]
        raise _refused(f"BPF program {name} refused", name, fd, "; ".join(words[-2:]))
    return fd


def link_cgroup(program: int, cgroup: str, attach_type: int) -> int:
    """Attach a program to a cgroup by a link.

    The link ends with its descriptor, and so with a process that is killed.
    """
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _call(_LINK_CREATE, _LinkCreate(program, target, attach_type, 0))
    finally:
        os.close(target)
    if fd < 0:
        hint = "a program on a parent cgroup excludes others" if fd == -errno.EPERM else ""
        raise _refused("BPF program cannot be attached to the cgroup", cgroup, fd, hint)
    return fd


def link_event(program: int, event: int, cookie: int) -> int:
    """Attach to a perf event. The program can ask for the cookie."""
    fd = _call(_LINK_CREATE, _LinkEvent(program, event, _PERF_EVENT, 0, cookie))
    if fd < 0:
        raise _refused("BPF program cannot be attached to the perf event", f"event {cookie}", fd)
    return fd


def link_tracepoint(program: int, name: str) -> int:
    """Attach to a tracepoint."""
    text = name.encode() + b"\0"
    fd = _call(_TRACEPOINT_OPEN, _OpenTracepoint(_address(text), program))
    if fd < 0:
        raise _refused("BPF program cannot be attached to the tracepoint", name, fd)
    return fd


def has_tcx() -> bool:
    """Return True if the kernel has TCX: it attaches programs to interfaces by links (since 6.6)."""
    code = _call(_PROG_QUERY, _ProgQuery(_LOOPBACK, TCX["ingress"], 0, 0, 0, 0))
    if code < 0 and code not in (-errno.EINVAL, -errno.ENOENT):
        raise _refused("the kernel does not say whether it has TCX", "bpf()", code)
    return code != -errno.EINVAL


def link_interface(program: int, index: int, direction: str) -> int:
    """Attach to an interface of the current namespace by a link. `direction` is ingress or egress."""
    fd = _call(_LINK_CREATE, _LinkCreate(program, index, TCX[direction], 0))
    if fd < 0:
        raise _refused("BPF program cannot be attached to the interface", str(index), fd)
    return fd


def on_interface(index: int, direction: str) -> list[tuple[int, str]]:
    """Return the link's ID and the program's name for each program on an interface of the current namespace."""
    room = 64
    programs, links = (ctypes.c_uint32 * room)(), (ctypes.c_uint32 * room)()
    attr = _ProgQuery(index, TCX[direction], 0, 0, ctypes.addressof(programs), room)
    attr.link_ids = ctypes.addressof(links)
    if _call(_PROG_QUERY, attr) < 0:  # a kernel without TCX, or an interface without programs
        return []
    return [(links[n], _program_name(programs[n])) for n in range(attr.count)]


def _program_name(identity: int) -> str:
    fd = _call(_PROG_BY_ID, _Ids(identity, 0, 0))
    if fd < 0:  # gone meanwhile
        return ""
    info = _ProgInfo()
    _call(_OBJECT_INFO, _ObjectInfo(fd, ctypes.sizeof(info), ctypes.addressof(info)))
    os.close(fd)
    return str(info.name.decode())


def attached(link: int) -> bool:
    """Return True if a link is still attached.

    Root can detach it, and the cgroup or the interface can be removed (kernel/bpf/cgroup.c, kernel/bpf/tcx.c).
    """
    info = _LinkInfo()
    attr = _ObjectInfo(link, ctypes.sizeof(info), ctypes.addressof(info))
    code = _call(_OBJECT_INFO, attr)
    if code < 0:
        raise _refused("BPF link cannot be read", str(link), code)
    return info.attached()


def detach(link: int) -> bool:
    """Detach the link with this ID, as `bpftool link detach` does. Return False if it does not exist."""
    fd = _call(_LINK_BY_ID, _Ids(link, 0, 0))
    if fd < 0:
        return False
    code = _call(_LINK_DETACH, _Ids(fd, 0, 0))
    os.close(fd)
    return code == 0


def detach_all(cgroup: str) -> int:
    """Detach every link from a cgroup, as `bpftool link detach` does, and return how many.

    Others may hold the links.
    """
    wanted, found, last = os.stat(cgroup).st_ino, 0, 0
    while True:
        position = _Ids(last, 0, 0)
        if _call(_NEXT_LINK, position) < 0:
            return found
        last = position.next
        fd = _call(_LINK_BY_ID, _Ids(last, 0, 0))
        if fd < 0:  # removed meanwhile
            continue
        info = _LinkInfo()
        if _call(_OBJECT_INFO, _ObjectInfo(fd, ctypes.sizeof(info), ctypes.addressof(info))) == 0:
            found += info.target == wanted and _call(_LINK_DETACH, _Ids(fd, 0, 0)) == 0
        os.close(fd)


def cgroup_taken(cgroup: str, attach_type: int) -> bool:
    """Return True if a program is attached here that allows no other below.

    The rule is in kernel/bpf/cgroup.c, hierarchy_allows_attach. Return True also if the kernel does not tell, because
    then attaching would fail as well.
    """
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attr = _ProgQuery(target, attach_type, 0, 0, 0, 0)
        code = _call(_PROG_QUERY, attr)
        effective = _ProgQuery(target, attach_type, _QUERY_EFFECTIVE, 0, 0, 0)
        code = code or _call(_PROG_QUERY, effective)
    finally:
        os.close(target)
    return code < 0 or bool(effective.count and attr.attach_flags == 0)


def _address(data: bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Return the address of the bytes. They must stay referenced until the call is over."""
    if data is None:
        return 0
    pointer = ctypes.c_char_p(data) if isinstance(data, bytes) else data
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
