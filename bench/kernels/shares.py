"""Serve the machine's files to a guest: by 9p, which QEMU has built in, or by virtiofs, which needs a daemon.

Distributions build 9p into their general kernels. Their kernels for clouds lack it, and have virtiofs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from bench.kernels.modules import Modules
from bench.kernels.owned import owned
from dataplanes.errors import Prerequisite

_DAEMONS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_TRANSPORTS = {"9p": ("9pnet_virtio", "9p"), "virtiofs": ("virtiofs",)}
"""File system type -> the modules that it needs in the guest. The first one that a kernel has is used."""


_OWN = ("/run", "/dev", "/proc", "/sys", "/etc/netns")
"""The directories that a guest has of its own (init.c, build_root). It sees everything else as it is here."""


class Shared(Struct, frozen=True):
    """The QEMU arguments of the shares, and the descriptors that they name."""

    argv: tuple[str, ...]
    passed: tuple[int, ...] = ()


def not_shared(path: str) -> str:
    """Return the directory that hides a path of this machine from a guest, or "" if the guest sees the path."""
    real = os.path.realpath(path)
    return next((own for own in _OWN if f"{real}/".startswith(f"{own}/")), "")


def transport(modules: Modules) -> str:
    """Return the type of file system by which a kernel can mount its root. Raises Prerequisite if it has neither."""
    for name, needed in _TRANSPORTS.items():
        if all(modules.has(each) for each in needed):
            return name
    raise Prerequisite(
        "this kernel cannot be a guest",
        where=modules.directory.name,
        why="it has neither 9p (CONFIG_9P_FS, CONFIG_NET_9P_VIRTIO) nor virtiofs (CONFIG_VIRTIO_FS)",
        fix="use a kernel that has one, such as the distribution's",
    )


def demand(modules: Modules) -> None:
    """Raise Prerequisite if this machine cannot serve the files to a kernel."""
    if transport(modules) == "virtiofs":
        _daemon_argv("/", 0, writable=False)


def needed(modules: Modules) -> tuple[str, ...]:
    """Return the modules that a guest needs to mount its root."""
    return _TRANSPORTS[transport(modules)]


@contextmanager
def serve(modules: Modules, shares: Mapping[str, str], memory: str) -> Iterator[Shared]:
    """Serve paths under their tags to a guest of this memory size. The share with the tag `root` is read-only."""
    if transport(modules) == "9p":
        yield Shared(tuple(argument for tag, path in shares.items() for argument in _9p(tag, path)))
        return
    with ExitStack() as stack:
        # The daemon reads and writes the guest's memory, so this memory must be shared between the two processes.
        argv = [
            "-object",
            f"memory-backend-memfd,id=memory,size={memory},share=on",
            "-machine",
            "memory-backend=memory",
        ]
        passed = []
        for tag, path in shares.items():
            handle = stack.enter_context(_daemon(path, writable=tag != "root")).fileno()
            passed.append(handle)
            argv += ["-chardev", f"socket,id=share-{tag},fd={handle}"]
            argv += ["-device", f"vhost-user-fs-pci,chardev=share-{tag},tag={tag},queue-size=1024"]
        yield Shared(tuple(argv), tuple(passed))


def _9p(tag: str, path: str) -> Sequence[str]:
    access = "readonly=on" if tag == "root" else "readonly=off"
    inner = path.replace(",", ",,")  # a comma ends a value
    export = f"local,id={tag},path={inner},security_model=none,multidevs=remap,{access}"
    return "-fsdev", export, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"


def _daemon_argv(path: str, handle: int, *, writable: bool) -> Sequence[str]:
    """Return the daemon's command line. The daemon writes only if `writable`.

    Raises Prerequisite if the daemon is not installed, or if it needs root and this user is not root.
    """
    why = "this kernel has no 9p, so it needs virtiofs"
    program = shutil.which("virtiofsd") or next(filter(os.path.exists, _DAEMONS), None)
    if program is None:
        fix = "apt-get install virtiofsd (Debian 12 and Ubuntu 22.04: qemu-system-common)"
        raise Prerequisite("no virtiofsd", why=why, fix=fix)
    known = subprocess.run((program, "--help"), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    # Submounts are not announced: overlayfs accepts no directory on which another file system may be mounted (EREMOTE).
    # QEMU's own virtiofsd announces them only on request, and its successor does so by default.
    silent = ("--no-announce-submounts",) if "--no-announce-submounts" in known.stdout else ()
    if "--preserve-noatime" in known.stdout:
        options = ("--shared-dir", path, "--sandbox", "none", "--cache", "always", *silent)
        access = () if writable else ("--readonly",)
        return program, f"--fd={handle}", *options, *access
    if os.geteuid():
        # overlayfs opens files with O_NOATIME (fs/overlayfs/file.c), which the kernel permits only to a file's owner
        # and to root. QEMU's 9p tries again without it, and later daemons drop it.
        fix = "run it as root, install virtiofsd 1.13 or later, or take a kernel that has 9p, as the distribution's"
        raise Prerequisite("not root", why=f"{why}, and this virtiofsd serves root alone", fix=fix)
    wrapper = (sys.executable, "-I", str(Path(__file__).with_name("virtiofsd.py")), "rw" if writable else "ro")
    options = ("-o", f"source={path}", "-o", "cache=always", "-o", "sandbox=chroot", *silent)
    return *wrapper, program, f"--fd={handle}", *options


@contextmanager
def _daemon(path: str, *, writable: bool) -> Iterator[socket.socket]:
    """Start a virtiofsd for one share, and connect to it. It ends with the connection, or with this process."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        ours = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind("")  # the kernel chooses an abstract name, so there is no file
        server.listen(1)
        ours.connect(server.getsockname())  # the daemon accepts one connection, and this is the first
        started = owned(
            _daemon_argv(path, server.fileno(), writable=writable),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(server.fileno(),),
            start_new_session=True,
        )
        with started:
            server.close()
            yield ours
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
