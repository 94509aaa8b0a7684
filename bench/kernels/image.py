"""What a guest gets: its initial RAM file system, and after it has booted its job.

The file system is an archive in cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench import native
from bench.kernels import shares
from bench.kernels.base import Command
from bench.kernels.modules import Modules
from dataplanes.requirements import Feature
from scenarios.requires import REQUIRES

_BOOT = ("virtio_pci", "virtio_console", "overlay")
"""The modules for the virtio-serial ports, and for the overlay over the machine's file system."""

_CHECKSUMS = ("crc32c_generic", "crc32c_intel")
"""What connection tracking's libcrc32c has the kernel start modprobe for, if it is not there (lib/libcrc32c.c)."""
_LAB = tuple(each.module for each in REQUIRES if isinstance(each, Feature) and each.module)
"""The modules that every lab needs. To load them takes an emulated guest 0.8 s, so a guest is saved with them."""

INPUT = "/run/bench-job/input"
"""The command's input. init mounts the job's files there."""
_REGULAR, _DIRECTORY = 0o100000, 0o040000


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return an archive of (name, mode with type, content)."""
    parts = []
    for number, (name, mode, content) in enumerate((*entries, ("TRAILER!!!", 0, b"")), 1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
    return b"".join(parts)


def _booted(modules: Modules) -> list[Path]:
    """Return the files of the modules that are loaded while the guest boots. A kernel may not have all of the lab's."""
    lab = (name for name in (*_CHECKSUMS, *_LAB) if modules.has(name))
    return modules.order((*_BOOT, *shares.needed(modules), *lab))


def base(modules: Modules) -> bytes:
    """Return the archive with init and the modules that are loaded before there is a root."""
    files = _booted(modules)
    entries = [
        ("init", _REGULAR | 0o755, native.binary("init").read_bytes()),
        ("job", _DIRECTORY | 0o755, b""),
        ("boot", _DIRECTORY | 0o755, b""),
    ]
    entries += [(f"boot/{path.name}", _REGULAR | 0o644, path.read_bytes()) for path in files]
    listing = "".join(f"/boot/{path.name}\n" for path in files)
    entries += [("job/boot", _REGULAR | 0o644, listing.encode())]
    return cpio([*entries, ("job/files", _REGULAR | 0o644, shares.transport(modules).encode())])


def job(command: Command, modules: Modules, paths: Mapping[str, str], now: int, *, awake: bool) -> bytes:
    """Return init's instructions, as it reads them from the control port.

    `paths` are those of the shares by their tags, and `now` is in seconds since the epoch. With `awake` the processor
    does not idle while a file is waited for, because the clock would leap (awake.c).
    """
    flags = {"tty": command.tty, "awake": awake}
    options = [f"cwd {command.cwd}", f"time {now}", *(flag for flag, on in flags.items() if on)]
    release, booted = modules.directory.name, set(_booted(modules))
    texts = {
        "modules": [str(path) for path in modules.order(command.modules) if path not in booted],
        "shares": [f"{tag} {path}" for tag, path in paths.items()],
        "bind": [f"{modules.directory} /lib/modules/{release}"],
        "options": options,
    }
    environment = [f"{key}={value}" for key, value in command.env.items()]
    files = {name: "".join(f"{line}\n" for line in lines).encode() for name, lines in texts.items()}
    for name, items in (("argv", command.argv), ("env", environment)):
        files[name] = b"".join(item.encode() + b"\0" for item in items)
    files |= {"input": command.input, "random": os.urandom(64), "end": b""}
    return b"".join(f"{name} {len(content)}\n".encode() + content for name, content in files.items())
