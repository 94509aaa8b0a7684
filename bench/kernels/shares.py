"""How a guest comes to the machine's files: by 9p, which QEMU serves itself, or by virtiofs, a daemon's beside it.

Distributions build 9p into the kernels that are for everybody, and leave it out of those for clouds, with virtiofs.
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
from dataplanes.errors import Prerequisite

_DAEMONS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
_TRANSPORTS = {"9p": ("9pnet_virtio", "9p"), "virtiofs": ("virtiofs",)}
"""Type of the file system, the best first -> the modules that a kernel has for it."""


class Shared(Struct, frozen=True):
    """What QEMU is told of the shares: arguments, and descriptors they name."""

    argv: tuple[str, ...]
    passed: tuple[int, ...] = ()


def transport(modules: Modules) -> str:
    """By what a kernel comes to the files. Raises Prerequisite if it has no way that we know."""
    for name, needed in _TRANSPORTS.items():
        if all(modules.has(each) for each in needed):
            return name
    raise Prerequisite(
        "this kernel cannot be a guest",
        where=modules.directory.name,
        why="it has neither 9p (CONFIG_9P_FS, CONFIG_NET_9P_VIRTIO) nor virtiofs (CONFIG_VIRTIO_FS)",
        fix="take one that has, such as the distribution's",
    )


def demand(modules: Modules) -> None:
    """Raise Prerequisite if a kernel cannot come to the files here."""
    if transport(modules) == "virtiofs":
        _program()


def needed(modules: Modules) -> tuple[str, ...]:
    """The modules that mount the root."""
    return _TRANSPORTS[transport(modules)]


@contextmanager
def serve(modules: Modules, shares: Mapping[str, str], memory: str) -> Iterator[Shared]:
    """Have paths served under their tags to a guest with so much memory; what is tagged `root` is read-only."""
    if transport(modules) == "9p":
        yield Shared(tuple(argument for tag, path in shares.items() for argument in _9p(tag, path)))
        return
    with ExitStack() as stack:
        # The daemon reads and writes the guest's memory, so it must be memory that two processes can have.
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
    export = f"local,id={tag},path={path},security_model=none,multidevs=remap,{access}"
    return "-fsdev", export, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"


def _program() -> str:
    """The daemon. Raises Prerequisite if it is not there, or cannot serve as whom we are."""
    why = "this kernel has no 9p, and comes to the machine's files by virtiofs"
    if os.geteuid():
        # overlayfs opens with O_NOATIME (fs/overlayfs/file.c), which the kernel permits a file's owner and root alone;
        # QEMU's 9p tries again without, virtiofsd does not.
        fix = "run it as root, or take a kernel that has 9p, such as the distribution's"
        raise Prerequisite("not root", why=f"{why}, whose daemon needs root", fix=fix)
    program = shutil.which("virtiofsd") or next(filter(os.path.exists, _DAEMONS), None)
    if program is None:
        fix = "apt-get install virtiofsd (Debian 12 and Ubuntu 22.04: qemu-system-common)"
        raise Prerequisite("no virtiofsd", why=why, fix=fix)
    return program


@contextmanager
def _daemon(path: str, *, writable: bool) -> Iterator[socket.socket]:
    """A connection to a virtiofsd of its own; it ends with the connection, or with us."""
    program = _program()
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        ours = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind("")  # a name that the kernel finds, and no file
        server.listen(1)
        ours.connect(server.getsockname())  # before anybody else can: the daemon accepts one connection
        wrapper = (sys.executable, "-I", str(Path(__file__).with_name("virtiofsd.py")))
        options = ("-o", f"source={path}", "-o", "cache=always", "-o", "sandbox=chroot", *_silent(program))
        process = subprocess.Popen(
            (*wrapper, "rw" if writable else "ro", program, f"--fd={server.fileno()}", *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(server.fileno(),),
        )
        server.close()
        try:
            yield ours
        finally:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            process.kill()
            process.wait()


def _silent(program: str) -> Sequence[str]:
    """Submounts are not announced: overlayfs takes no directory that another file system may be mounted on (EREMOTE).

    QEMU's own virtiofsd does not unless it is told to, its successor does.
    """
    said = subprocess.run((program, "--help"), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    option = "--no-announce-submounts"
    return (option,) if option in said.stdout else ()
