"""Reading of files that anybody may have written, and writing of files that the next run relies on.

The size of a file is bounded before the file is unpacked. A fault in its content raises an error of ours, which names
the file and the field. A file is written as a whole, or it stays as it was.
"""

from __future__ import annotations

import errno
import lzma
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from dataplanes.errors import BenchError, Prerequisite, Usage

T = TypeVar("T")

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_UNPACKING = 64 << 20
"""Bytes of memory that xz may ask for to unpack a file."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_VALUES = 1_000_000
"""JSON values in one document. A value takes about a hundred bytes of memory, even if it is `[]` in the file."""


def content(path: str | Path, most: int) -> bytes:
    """Return the bytes of a file, unpacked if it is gzip or xz.

    Raises Usage if it is unreadable or larger than `most`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Usage("cannot read the file", where=str(path), why=_why(error)) from error
    if unpack := _unpacker(data):
        try:
            data = unpack.decompress(data, most + 1)
        except (zlib.error, lzma.LZMAError) as error:
            raise Usage("cannot read the file", where=str(path), why=str(error)) from error
        if not unpack.eof and len(data) <= most:
            raise Usage("cannot read the file", where=str(path), why="its compressed data was cut off")
    if len(data) > most:
        raise Usage("the file is too large", where=str(path), why=f"more than {most >> 10:,} KiB")
    return data


class _Unpacker(Protocol):
    """What zlib and lzma have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, most: int, /) -> bytes: ...


def _unpacker(data: bytes) -> _Unpacker | None:
    if data.startswith(_GZIP):
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if data.startswith(_XZ):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACKING)
    return None


def text(path: str | Path, most: int) -> str:
    """Return the text of a file. Raises Usage as `content` does, and with the line if it is not UTF-8."""
    data = content(path, most)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Usage("not UTF-8 text", where=f"{path}:{line}") from error


def decode(data: bytes, kind: type[T], where: str, *, wrong: str = "not such a document", fix: str = "") -> T:
    """Decode JSON to a type. Raises Usage, which says what is wrong and at which field."""
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
    """Convert decoded JSON to a type. Raises Usage as `decode` does."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, where, wrong, fix) from error


def invalid(error: msgspec.ValidationError, where: str, wrong: str, fix: str = "") -> Usage:
    """Turn an error of msgspec into one of ours. The field becomes a part of the place."""
    why, _, field = str(error).partition(" - at `")
    field = field.rstrip("`").removeprefix("$").removeprefix(".")
    return Usage(wrong, where=f"{where}: {field}" if field else where, why=why, fix=fix)


def kept(path: Path, kind: type[T], most: int = 1 << 20) -> T | None:
    """Return the content of a file in the cache, or None if it is missing or damaged."""
    try:
        return decode(content(path, most), kind, str(path))
    except Usage:
        return None


def keep(path: Path, data: bytes) -> None:
    """Write a file in the cache. Raises Prerequisite if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        raise Prerequisite("cannot write the file", where=str(path), why=_why(error)) from error


def replace(path: str | Path, data: bytes) -> None:
    """Replace the content of a file at once: no reader sees a half of it. A device or a pipe is written to directly.

    Raises OSError.
    """
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


def write(path: str | Path, data: bytes, what: str = "the output file") -> None:
    """Write an output file. Raises Prerequisite if the disk is full, Usage if the path is wrong."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace(path, data)
    except OSError as error:
        raise cannot_write(path, error, what) from error


def cannot_write(path: object, error: OSError | ValueError, what: str) -> BenchError:
    """Return the error for an output file: Prerequisite if the disk is full, Usage if the path is wrong."""
    if full(error):
        fix = "free some space, or name another place"
        return Prerequisite(f"cannot write {what}", where=str(path), why=_why(error), fix=fix)
    return Usage(f"cannot write {what}", where=str(path), why=_why(error))


def full(error: Exception) -> bool:
    """Return True if the error means that the disk does not take the data."""
    return getattr(error, "errno", None) in _FULL


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
