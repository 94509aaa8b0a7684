"""C programs that are compiled when they are first needed. `python -m bench.native` compiles them all."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel.process import tied
from dataplanes.paths import cache
from scenarios.journal import Journal

FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", "-static")
_HERE = Path(__file__).parent
PROGRAMS: dict[str, tuple[Path, ...]] = {
    "init": tuple(_HERE / "kernels" / name for name in ("awake.c", "command.c", "init.c", "ports.c")),
    "keep": (_HERE / "kernels" / "keep.c",),
    "vipload": tuple(sorted((_HERE / "load").glob("*.c"))),
}


def binary(name: str) -> Path:
    """Return the path of the program in the cache, statically linked. Its name there holds the hash of its sources.

    Raises Prerequisite without a compiler, and BenchError if the source does not compile.
    """
    return _made(name, cache() / "bin")


# A lab asks for every container, and in an emulated guest the reading takes a quarter of a second.
@functools.cache
def _made(name: str, directory: Path) -> Path:
    sources = PROGRAMS[name]
    headers = sorted({header for source in sources for header in source.parent.glob("*.h")})
    content = b"".join(path.read_bytes() for path in (*sources, *headers)) + " ".join(FLAGS).encode()
    target = directory / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not _whole(target):
        _compile(sources, target)
    return target


def _whole(program: Path) -> bool:
    """Return True if the file is complete: the linker puts the table of sections at its end (elf(5))."""
    try:
        with program.open("rb") as file:
            head = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    if len(head) < 64 or not head.startswith(b"\x7fELF"):
        return False
    (offset,), (length, count) = struct.unpack_from("<Q", head, 0x28), struct.unpack_from("<HH", head, 0x3A)
    return bool(size >= offset + length * count)


def _compile(sources: Sequence[Path], target: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Prerequisite(
            "a C compiler is not installed",
            why=f"{target.name} has to be compiled",
            fix="apt-get install gcc libc6-dev",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Prerequisite("cannot write to the cache", where=str(target.parent), why=error.strerror or "") from error
    with Journal() as journal:
        partial = journal.partial(target)
        command = [compiler, *FLAGS, "-o", partial, *map(str, sources), "-lutil"]
        environ = {**os.environ, "TMPDIR": os.path.dirname(journal.scratch("compiler"))}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, preexec_fn=tied())
        if done.returncode:
            kind = Prerequisite if os.strerror(errno.ENOSPC) in done.stderr else BenchError
            raise kind(f"{target.name} does not compile", why=done.stderr.strip().partition("\n")[0])
        os.rename(partial, target)


if __name__ == "__main__":
    for each in PROGRAMS:
        print(binary(each))
