"""The kernel's own description of its types: BTF (Documentation/bpf/btf.rst).

A program that reads kernel structures needs the offsets of their fields, and one that is attached to a kernel function
needs the function's number. Both differ from kernel to kernel, and BTF tells them. A module's BTF goes on where that
of the kernel image ends: with the numbers of the types, and with the offsets of the names.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from msgspec import Struct

from dataplanes.errors import Prerequisite

_MAGIC = 0xEB9F
_STRUCT, _UNION, _ENUM, _FUNC, _PROTO = 4, 5, 6, 12, 13
_THROUGH = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag: the same thing under another name
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}  # the bytes that follow the head of an int, array, variable, declaration tag
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _PROTO: 8, 15: 12, 19: 12}  # the bytes of each member
_TypeHead = tuple[int, int, int, int, int]  # name, kind, members, size or type, offset of what follows


class KernelFunction(Struct, frozen=True):
    """A kernel function: its number, and the names of its arguments; none if its prototype is described elsewhere."""

    number: int
    arguments: list[str]


class KernelTypes(Struct, frozen=True):
    """The wanted part of a kernel image's types, for those who cannot wait until all are read.

    `first` is the number of a module's first type. `fields` has offsets in bytes by "structure.field", and `enums` the
    names of values.
    """

    first: int
    functions: dict[str, KernelFunction]
    fields: dict[str, int]
    enums: dict[str, dict[int, str]]


def names(data: bytes) -> bytes:
    """Return the part of BTF that has the names. Raises Prerequisite if it is something else."""
    if len(data) < 24 or struct.unpack_from("<H", data)[0] != _MAGIC:
        raise Prerequisite("the kernel's types cannot be read", why="this is no BTF")
    header, _, _, start, size = struct.unpack_from("<5I", data, 4)
    return data[header + start : header + start + size]


class Btf:
    """Parsed BTF: of the kernel image, or of a module, whose types can refer to those of the image."""

    def __init__(self, data: bytes, *, first: int = 1, before: bytes = b"") -> None:
        """Parse the BTF. For a module's, `first` is the number of its first type, and `before` the image's names.

        Raises Prerequisite if it is something else.
        """
        self._data, self._first, self._text = data, first, before + names(data)
        self._heads: list[_TypeHead] = []
        header, types, size = struct.unpack_from("<3I", data, 4)
        at, end = header + types, header + types + size
        head, append = struct.Struct("<3I").unpack_from, self._heads.append
        while at < end:
            name, info, more = head(data, at)
            kind, members = info >> 24 & 31, info & 0xFFFF
            append((name, kind, members, more, at + 12))
            at += 12 + (_FIXED.get(kind, 0) or _EACH.get(kind, 0) * members)

    @property
    def next(self) -> int:
        """The number of the first type after these."""
        return self._first + len(self._heads)

    def _name(self, offset: int) -> str:
        return self._text[offset : self._text.index(b"\0", offset)].decode("utf-8", "replace")

    def _head(self, number: int) -> _TypeHead | None:
        at = number - self._first
        return self._heads[at] if 0 <= at < len(self._heads) else None

    def _offsets(self, wanted: Iterable[str]) -> dict[int, str]:
        """Return where these names are, for a search without comparing texts. A name may be there twice."""
        found = {}
        for name in wanted:
            pattern, at = b"\0" + name.encode() + b"\0", -1
            while (at := self._text.find(pattern, at + 1)) >= 0:
                found[at + 1] = name
        return found

    def functions(self, wanted: Iterable[str]) -> dict[str, KernelFunction]:
        """Return those of the functions that exist. One that the compiler has put into its callers does not."""
        offsets = self._offsets(wanted)
        return {
            offsets[name]: KernelFunction(self._first + at, self._arguments(prototype))
            for at, (name, kind, _, prototype, _) in enumerate(self._heads)
            if kind == _FUNC and name in offsets
        }

    def _arguments(self, prototype: int) -> list[str]:
        head = self._head(prototype)
        if head is None:
            return []
        return [self._name(struct.unpack_from("<I", self._data, head[4] + 8 * n)[0]) for n in range(head[2])]

    def fields(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the offsets in bytes of fields, each named "structure.field.field". Fields that do not exist lack."""
        pairs = [name.partition(".") for name in wanted]
        numbers = self._structures({structure for structure, _, _ in pairs})
        found = {}
        for structure, _, path in pairs:
            offset = self._path(numbers[structure], path.split(".")) if structure in numbers else None
            if offset is not None:
                found[f"{structure}.{path}"] = offset
        return found

    def _structures(self, wanted: Iterable[str]) -> dict[str, int]:
        offsets = self._offsets(wanted)
        return {
            offsets[name]: self._first + at
            for at, (name, kind, *_) in enumerate(self._heads)
            if kind == _STRUCT and name in offsets
        }

    def _path(self, number: int, path: Sequence[str]) -> int | None:
        total = 0
        for field in path:
            found = self._field(number, field)
            if found is None:
                return None
            offset, number = found
            total += offset
        return total

    def _field(self, number: int, field: str) -> tuple[int, int] | None:
        """Return a field's offset and type. Look into members without a name, as C does."""
        head = self._head(number)
        while head and head[1] in _THROUGH:
            head = self._head(head[3])
        if head is None or head[1] not in (_STRUCT, _UNION):
            return None
        for n in range(head[2]):
            name, kind, bits = struct.unpack_from("<3I", self._data, head[4] + 12 * n)
            offset = (bits & 0xFFFFFF) // 8  # the upper byte is the width of a bit field
            if name and self._name(name) == field:
                return offset, kind
            if not name and (inner := self._field(kind, field)):
                return offset + inner[0], inner[1]
        return None

    def enumeration(self, name: str) -> dict[int, str]:
        """Return the values and names of an enumeration; nothing if it does not exist."""
        offsets = self._offsets([name])
        for found, kind, members, _, at in self._heads:
            if kind == _ENUM and found in offsets and members:
                pairs = (struct.unpack_from("<2I", self._data, at + 8 * n) for n in range(members))
                return {value: self._name(text) for text, value in pairs}
        return {}


def of_image(elf: bytes) -> bytes:
    """Return the BTF in a vmlinux; b"" if it has none, or is no ELF file."""
    if not elf.startswith(b"\x7fELF"):
        return b""
    (table,), (size, count, texts) = struct.unpack_from("<Q", elf, 0x28), struct.unpack_from("<3H", elf, 0x3A)
    sections = [struct.unpack_from("<2I4Q", elf, table + size * n) for n in range(count)]
    for name, _, _, _, offset, length in sections:
        start = sections[texts][4] + name
        if elf[start : start + 5] == b".BTF\0":
            return elf[offset : offset + length]
    return b""
