"""The kernel inside a bzImage, extracted so that the guest need not decompress itself.

Decompression takes an emulated guest 5 s of its time, and the machine 1 s, once. QEMU boots a vmlinux by its PVH entry
(Documentation/arch/x86/boot.rst describes the bzImage's header; pc-bios/optionrom/pvh.S in QEMU uses the entry).
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib
from pathlib import Path

from bench.kernels.base import parse_config

_XZ, _ZSTD, _GZIP, _ELF = b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"\x7fELF"


def bootable(directory: Path) -> Path:
    """Return the file that QEMU is to boot: the vmlinux of the kernel unpacked there, or else its image."""
    plain = directory / "vmlinux"
    return plain if plain.exists() else directory / "vmlinuz"


def unpack(directory: Path) -> None:
    """Put the vmlinux beside the image, if it is of a kind that QEMU boots."""
    config = directory / "config"
    if config.exists() and parse_config(config.read_text("ascii", "replace")).get("CONFIG_PVH") == "y":
        content = decompressed((directory / "vmlinuz").read_bytes())
        if content.startswith(_ELF):
            (directory / "vmlinux").write_bytes(content)


def decompressed(image: bytes) -> bytes:
    """Return the payload of a bzImage, or b"" if it is damaged or packed in an unknown way."""
    try:
        return _decompressed(image)
    except (IndexError, struct.error, lzma.LZMAError, zlib.error):
        return b""


def _decompressed(image: bytes) -> bytes:
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(_XZ):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(_GZIP):
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(payload)
    if payload.startswith(_ZSTD):
        return _unzstd(payload[:-4])  # its size follows it (scripts/Makefile.lib, size_append)
    return b""


def _unzstd(payload: bytes) -> bytes:
    try:
        return subprocess.run(("zstd", "-d", "-c"), input=payload, capture_output=True, check=False).stdout
    except FileNotFoundError:
        return b""
