"""The image that every task runs: the machine's static busybox and the project's server. No registry has it."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from dataplanes.errors import Prerequisite
from dataplanes.platforms import Place

NAME = "vip-bench"
SERVER = "/bin/server"
NUMBER = "SLOT"
"""The variable of a task's environment that has its number."""
# A task that swarm shuts down gets SIGTERM. This one ignores it, so that it serves its connections on until its grace
# period ends.
_RUN = 'trap "" TERM; {server}while :; do sleep 30000; done'


class TaskServer(Struct, frozen=True):
    """The server: its program, which is statically linked, and the option for its UDP ports.

    Where it `runs` outside of its container, `argv` returns the command of the server with a number.
    """

    binary: Path
    datagrams: str
    argv: Callable[[int], list[str]]
    runs: Place = "container"


def archive(server: Path) -> bytes:
    """Return the image's file system as an archive. Raises Prerequisite without a static busybox."""
    busybox = shutil.which("busybox", path="/usr/bin:/bin")
    if busybox is None:
        raise Prerequisite(
            "busybox is not installed", why="the tasks' image is made of it", fix="apt install busybox-static"
        )
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in (("bin/busybox", Path(busybox)), (SERVER[1:], server)):
            data = content.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc", "proc", "sys", "dev", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
    return made.getvalue()


def command(port: int, server: TaskServer) -> list[str]:
    """Return the command of a task: the server, which answers with its number by TCP and by UDP, if it runs there."""
    inside = f"{SERVER} serve --id ${NUMBER} --tcp {port} --{server.datagrams} {port} & "
    return ["/bin/sh", "-c", _RUN.format(server=inside if server.runs == "container" else "")]
