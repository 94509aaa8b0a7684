"""Files that somebody else may have written, and files that the next run relies on.

Whatever is read comes in here: its size is bounded before it is unpacked, and what is wrong with it is an error of
ours that names the file and the field. Whatever is kept goes out here: a file is there whole or as it was before.
"""

from __future__ import annotations

import errno
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from dataplanes.errors import BenchError, Prerequisite, Usage

T = TypeVar("T")

_GZIP = b"\x1f\x8b"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_VALUES = 1_000_000
"""What JSON may hold of values: each costs some hundred bytes of memory, be it three bytes long in the file."""


def content(path: str | Path, most: int) -> bytes:
    """A file's bytes, unpacked if they are gzip's. Raises Usage: there is none, it is no file, or it is too large."""
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Usage("cannot read the file", where=str(path), why=_why(error)) from error
    if data.startswith(_GZIP):
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            data = unpack.decompress(data, most + 1)
        except zlib.error as error:
            raise Usage("cannot read the file", where=str(path), why=str(error)) from error
        if not unpack.eof and len(data) <= most:
            raise Usage("cannot read the file", where=str(path), why="its compressed data was cut off")
    if len(data) > most:
        raise Usage("the file is too large", where=str(path), why=f"more than {most >> 10:,} KiB")
    return data


def text(path: str | Path, most: int) -> str:
    """The same as text. Raises Usage, naming the first line that is not UTF-8, too."""
    data = content(path, most)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Usage("not UTF-8 text", where=f"{path}:{line}") from error


def decode(data: bytes, kind: type[T], where: str, *, wrong: str = "not such a document", fix: str = "") -> T:
    """JSON of a type. Raises Usage that says what is wrong, and at which field."""
    values = data.count(b",") + data.count(b"[") + data.count(b"{")
    if values > _VALUES:
        raise Usage(wrong, where=where, why=f"it has {values:,} values, more than {_VALUES:,}", fix=fix)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(error, where, wrong, fix) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Usage(wrong, where=where, why=str(error), fix=fix) from error
    except RecursionError as error:
        raise Usage(wrong, where=where, why="it is nested too deeply", fix=fix) from error


def convert(data: object, kind: type[T], where: str, *, wrong: str = "not such a document", fix: str = "") -> T:
    """Decoded JSON as a type. Raises Usage as `decode` does."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, where, wrong, fix) from error


def invalid(error: msgspec.ValidationError, where: str, wrong: str, fix: str = "") -> Usage:
    """What msgspec found wrong, as an error of ours: the field belongs to the place."""
    why, _, field = str(error).partition(" - at `")
    field = field.rstrip("`").removeprefix("$").removeprefix(".")
    return Usage(wrong, where=f"{where}: {field}" if field else where, why=why, fix=fix)


def kept(path: Path, kind: type[T], most: int = 1 << 20) -> T | None:
    """What a file of the cache holds; None if there is none, or not such a one: it is made again then."""
    try:
        return decode(content(path, most), kind, str(path))
    except Usage:
        return None


def keep(path: Path, data: bytes) -> None:
    """Write a file of the cache, or of whatever else is relied on later. Raises Prerequisite."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        raise Prerequisite("cannot write the file", where=str(path), why=_why(error)) from error


def replace(path: str | Path, data: bytes) -> None:
    """Write a file: it is there whole, or as it was before. A device or a pipe is written to. Raises OSError."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            if target.exists():
                os.fchmod(file.fileno(), target.stat().st_mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def cannot_write(path: object, error: OSError | ValueError, what: str) -> BenchError:
    """What to say of an output file: either the machine has no room for it, or there can be no such file."""
    kind = Prerequisite if full(error) else Usage
    return kind(f"cannot write {what}", where=str(path), why=_why(error))


def full(error: Exception) -> bool:
    """True if it is the disk that cannot take what was written."""
    return getattr(error, "errno", None) in _FULL


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
