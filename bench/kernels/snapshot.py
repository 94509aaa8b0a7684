"""Guests that were booted before: a guest that waits for its job is saved, and later guests go on from there.

An emulated boot takes longer than most commands. Until a guest has its job it has seen nothing of the machine, so that
all guests of a kernel with the same devices are the same. QEMU saves one as it would send it to another machine
(docs/devel/migration in QEMU's sources). It cannot do that any more once 9p is mounted (hw/9pfs/9p.c, v9fs_attach adds
a migration blocker), nor with virtiofsd at all.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.kernels.session import Session
from dataplanes.paths import cache

_PACKER = "zstd"
_ANSWERS = 60.0
"""Seconds of real time within which QEMU must answer, or have saved more."""


def place(family: str, key: str) -> Path | None:
    """Return the path of the saved guest of a family with this key, which tells of everything that it depends on.

    None: this machine cannot pack one.
    """
    return cache() / "booted" / f"{family}-{key}.zst" if shutil.which(_PACKER) else None


@contextmanager
def restored(path: Path) -> Iterator[list[str]]:
    """Return the QEMU arguments with which a guest goes on from where it was saved. Raises FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # open, so that nobody can remove it before QEMU has read it
    try:
        yield ["-incoming", f"exec:{_PACKER} -dcq </proc/{os.getpid()}/fd/{handle}"]
    finally:
        os.close(handle)


class Saving(Session):
    """The connection with a guest that is saved when it has booted, and then ended."""

    def save(self, monitor: socket.socket, path: Path) -> bool:
        """Boot and save the guest. Return True if it is saved. Earlier ones of its family are removed."""
        self._monitor, self._path = monitor, path
        self.saved = False
        self.run()
        if self.saved:
            family = path.name[: -len("-0123456789ab.zst")]
            for other in path.parent.glob(f"{family}-????????????.zst"):
                if other != path:
                    other.unlink(missing_ok=True)
        return self.saved

    def _booted(self) -> None:
        part = self._path.with_suffix(f".{os.getpid()}")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            self._save(part)
            part.rename(self._path)
            self.saved = True
        except (OSError, ValueError):  # the disk is full, or QEMU has gone or cannot; then every guest boots
            with suppress(OSError):
                part.unlink(missing_ok=True)
        self._process.kill()

    def _save(self, part: Path) -> None:
        self._monitor.settimeout(_ANSWERS)
        with self._monitor.makefile("r", encoding="utf-8") as lines:

            def await_(key: str, value: object = None) -> dict[str, Any]:
                for line in lines:
                    told: dict[str, Any] = json.loads(line)
                    if "error" in told:
                        raise ValueError(told["error"].get("desc"))
                    if key in told and value in (None, told[key]):
                        return told
                raise ValueError("QEMU has closed its monitor")

            def ask(command: str, **arguments: object) -> None:
                self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
                await_("return")

            ask("qmp_capabilities")
            ask("stop")
            ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            ask("migrate", uri=f"exec:{_PACKER} -1qc >{shlex.quote(str(part))}")
            while (status := await_("event", "MIGRATION")["data"]["status"]) != "completed":
                if status == "failed":
                    raise ValueError("QEMU could not save the guest")
