"""The network namespaces of others, by name, path, process number or container id. Nothing is done in them."""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
import struct
from contextlib import suppress
from urllib.parse import quote

from msgspec import Struct

from dataplanes.kernel import netns, pids
from scenarios.engine import Engine, Refused

Inode = tuple[int, int]
"""The device and the inode of a namespace, which tell it from every other one."""
_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000
_UCRED = struct.Struct("3i")
_PATIENCE = 10.0
"""Seconds in which an engine answers."""


class Home(Struct, frozen=True):
    """The namespace of a container or of a node, as it was found, and the field of the world file that names it."""

    path: str  # in this machine's own /proc, if it begins with /proc
    inode: Inode
    field: str


class EnginePlace(Struct, frozen=True):
    """The socket of an engine, and what tells its PID namespace from others: its numbers of processes are of that.

    It is "" for the PID namespace of this machine, and None for one that cannot be seen from here.
    """

    path: str
    pids: str | None = ""


def own_inode() -> Inode:
    """Return what tells the namespace of this process from others."""
    return _inode("/proc/thread-self/ns/net")


def find(path: str, field: str) -> Home:
    """Return the namespace at a path. Raises ValueError if it is none."""
    try:
        found = _inode(_seen(path))
        if found[0] != own_inode()[0] or _kind(_seen(path)) != _CLONE_NEWNET:
            raise ValueError(f"{path} is no network namespace")
    except OSError as error:
        raise ValueError(f"there is no namespace at {path}: {error.strerror}") from error
    return Home(path, found, field)


def open_home(home: Home) -> int:
    """Open a namespace. Raises ValueError if it is not the one that was found."""
    try:
        handle = os.open(_seen(home.path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"the namespace is gone: {error.strerror}") from error
    if _inode(f"/proc/self/fd/{handle}") != home.inode:
        os.close(handle)
        raise ValueError("its container was replaced: the namespace is another one now")
    return handle


def place(path: str) -> EnginePlace:
    """Return where the engine of a socket is. One that does not answer has no place yet, and is taken for a near one.

    Whoever listens at the socket is known by the number that it has here (unix(7), SO_PEERCRED).
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX) as handle:
        handle.settimeout(_PATIENCE)
        handle.connect(path)
        number, *_ = _UCRED.unpack(handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        found = pids.namespace(number)
        return EnginePlace(path, (found if found != pids.namespace("self") else "") if number else None)
    return EnginePlace(path)


def path_of(name: str, pid: int, container: str, engine: EnginePlace) -> str:
    """Return the path of a namespace by its name or path, a process, or a container of an engine.

    Raises ValueError if the engine does not tell it.
    """
    if name:
        return netns.path(name)
    if pid:
        return f"/proc/{pid}/ns/net"
    try:
        told = Engine(engine.path, engine.path, _PATIENCE).get(f"/containers/{quote(container, safe='')}/json")
        number = int(told["State"]["Pid"])
    except Refused as error:
        raise ValueError(f"the engine at {engine.path} does not tell of {container!r}: {error.why}") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the engine at {engine.path} does not tell of {container!r}: {error}") from error
    if not number:
        raise ValueError(f"{container!r} does not run")
    if engine.pids is None:
        raise ValueError(f"the engine at {engine.path} is outside of this PID namespace, and so is {container!r}")
    if engine.pids and not (number := pids.find(number, engine.pids, _seen("/proc/"))):
        raise ValueError(f"{container!r} has ended")
    return f"/proc/{number}/ns/net"


def _seen(path: str) -> str:
    """Return a path as this process sees it: it may have a /proc of its own (bench/kernels/keep.c)."""
    return os.environ.get("BENCH_PROC", "/proc") + path.removeprefix("/proc") if path.startswith("/proc/") else path


def _inode(path: str) -> Inode:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _kind(path: str) -> int:
    """Return the kind of a namespace (ioctl_nsfs(2), NS_GET_NSTYPE)."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(handle, _NS_GET_NSTYPE)
    finally:
        os.close(handle)
