"""What the program needs of the machine: the list `needs`, what of it is missing, and the apt line that installs it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bench.prepare.preflight import PATH
from dataplanes.kernel import distribution

_LIST = Path(__file__).with_name("needs")


class Needed(Struct, frozen=True):
    """A thing of the machine, and the package that has it."""

    package: str
    kind: str  # module, command, static or file
    name: str

    def there(self) -> bool:
        """Return True if the machine has it."""
        if self.kind == "module":
            return distribution.has(self.name)
        if self.kind == "file":
            return os.path.exists(self.name)
        found = shutil.which(self.name, path=PATH)
        # The guest's first process: the libraries of a dynamic busybox are not in its initramfs.
        return bool(found) and (self.kind != "static" or b"/ld-" not in Path(found or "").read_bytes())


def needed() -> list[Needed]:
    """Return everything that the program needs of the machine."""
    lines = _LIST.read_text("utf-8").splitlines()
    return [Needed(*line.split()) for line in lines if line and not line.startswith("#")]


def missing() -> list[Needed]:
    """Return what the machine lacks."""
    return [each for each in needed() if not each.there()]


def install_argv(lacking: Sequence[Needed]) -> tuple[str, ...]:
    """Return the apt command that installs the packages of what is missing."""
    return ("apt-get", "install", "-y", "--no-install-recommends", *dict.fromkeys(each.package for each in lacking))


def may_install() -> list[str] | None:
    """Return what is written before a command that installs packages; None if this user or machine cannot."""
    if not shutil.which("apt-get", path=PATH):
        return None
    if os.geteuid() == 0:
        return []
    try:
        done = subprocess.run(("sudo", "-n", "true"), capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    return ["sudo", "-n"] if done.returncode == 0 else None
