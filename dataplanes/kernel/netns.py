"""Named network namespaces, which the calling process enters.

Entering is a system call and needs no child process. The caller must be single-threaded while it is inside, and every
socket that is opened inside stays bound to that namespace. Names are those of `ip netns` (a bind mount in /run/netns).
A namespace of others may be entered by its path, such as /proc/1234/ns/net.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dataplanes.errors import KernelRefused, Prerequisite
from dataplanes.kernel.interrupt import held

RUN = "/run/netns"
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, what: str, name: str) -> None:
    if result:
        code = ctypes.get_errno()
        if code == errno.EPERM:
            raise Prerequisite(what, where=name, why="not permitted", fix="run as root, or use --kernel guest")
        raise KernelRefused(what, where=name, why=os.strerror(code))


def path(name: str) -> str:
    """Return the path at which a named namespace is mounted. A path is one already."""
    return os.path.join(RUN, name)


def exists(name: str) -> bool:
    """Return True if the name exists, mounted or not."""
    return os.path.exists(path(name))


def _mount(source: str | None, target: str, flags: int) -> int:
    return int(_libc.mount(source.encode() if source else None, target.encode(), b"none", flags, None))


def share_run() -> None:
    """Make namespaces mounted here visible in every mount namespace, as ip-netns(8) does, so that both tools agree."""
    os.makedirs(RUN, exist_ok=True)
    if _mount("", RUN, _MS_SHARED | _MS_REC):
        _call(_mount(RUN, RUN, _MS_BIND | _MS_REC), "cannot bind-mount the namespace directory", RUN)
        _call(_mount("", RUN, _MS_SHARED | _MS_REC), "cannot share the namespace directory", RUN)


def create(name: str, *, remapped: bool = False) -> None:
    """Create a namespace and name it. Raises KernelRefused if the name is taken, Prerequisite without privilege.

    With `remapped` it belongs to a new user namespace, as a container's does under dockerd --userns-remap.
    """
    with held():
        share_run()
        target = f"{RUN}/{name}"
        try:
            os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        except OSError as error:
            raise KernelRefused("cannot create the namespace", where=name, why=error.strerror or "") from error
        try:
            _fill_remapped(name, target) if remapped else _fill(name, target)
        except BaseException:
            os.unlink(target)
            raise


def _fill(name: str, target: str) -> None:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(_libc.unshare(_CLONE_NEWNET), "cannot create the namespace", name)
        try:
            _call(_mount("/proc/thread-self/ns/net", target, _MS_BIND), "cannot name the namespace", name)
        finally:
            _call(_libc.setns(home, _CLONE_NEWNET), "cannot return from the namespace", name)
    finally:
        os.close(home)


def _fill_remapped(name: str, target: str) -> None:
    """Create the namespace in a child, which then ends: a process cannot return from a user namespace."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        failed = _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        theirs.send(bytes([ctypes.get_errno() if failed else 0]))
        theirs.recv(1)
        os._exit(0)
    try:
        theirs.close()
        failed = ours.recv(1)[0]
        ctypes.set_errno(failed)
        _call(failed, "cannot create the user namespace", name)
        _call(_mount(f"/proc/{child}/ns/net", target, _MS_BIND), "cannot name the namespace", name)
    finally:
        ours.close()
        os.waitpid(child, 0)


def adopt(source: str, name: str) -> None:
    """Name a namespace that exists already, by its path. Raises KernelRefused if the name is taken or nothing is there.

    The path may lead through another mount namespace (/proc/PID/root).
    """
    with held():
        share_run()
        target = path(name)
        try:
            os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
        except OSError as error:
            raise KernelRefused("cannot name the namespace", where=name, why=error.strerror or "") from error
        try:
            _call(_mount(source, target, _MS_BIND), "cannot name the namespace", name)
        except BaseException:
            os.unlink(target)
            raise


def delete(name: str) -> None:
    """Remove the name of a namespace.

    The namespace ends when nothing runs in it any more. A missing name is no error.
    """
    target = f"{RUN}/{name}"
    _libc.umount2(target.encode(), _MNT_DETACH)
    try:
        os.unlink(target)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise KernelRefused("cannot delete the namespace", where=name, why=error.strerror or "") from error


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Run the block in the namespace, and return to the caller's namespace in any case."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with held():
            enter(name)
        yield
    finally:
        with held():
            _call(_libc.setns(home, _CLONE_NEWNET), "cannot return from the namespace", name)
            os.close(home)


def enter(name: str) -> None:
    """Move the calling thread into the namespace for good."""
    try:
        target = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise KernelRefused("no such namespace", where=name) from error
    try:
        _call(_libc.setns(target, _CLONE_NEWNET), "cannot enter the namespace", name)
    finally:
        os.close(target)
