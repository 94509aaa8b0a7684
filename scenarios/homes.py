"""The network namespaces of others, by name, path, process number or container id. Nothing is done in them."""

from __future__ import annotations

import fcntl
import http.client
import os
from urllib.parse import quote

from msgspec import Struct

from dataplanes.kernel import netns
from scenarios.engine import Engine, Refused

Inode = tuple[int, int]
"""The device and the inode of a namespace, which tell it from every other one."""
_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000
_PATIENCE = 10.0
"""Seconds in which an engine answers."""


class Home(Struct, frozen=True):
    """The namespace of a container or of a node, as it was found, and the field of the world file that names it."""

    path: str  # in this machine's own /proc, if it begins with /proc
    inode: Inode
    field: str


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


def path_of(name: str, pid: int, container: str, engine: str) -> str:
    """Return the path of a namespace by its name or path, a process, or a container of an engine.

    Raises ValueError if the engine does not tell it.
    """
    if name:
        return netns.path(name)
    if pid:
        return f"/proc/{pid}/ns/net"
    try:
        told = Engine(engine, engine, _PATIENCE).get(f"/containers/{quote(container, safe='')}/json")
        number = int(told["State"]["Pid"])
    except Refused as error:
        raise ValueError(f"the engine at {engine} does not tell of {container!r}: {error.why}") from error
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the engine at {engine} does not tell of {container!r}: {error}") from error
    if not number:
        raise ValueError(f"{container!r} does not run")
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
