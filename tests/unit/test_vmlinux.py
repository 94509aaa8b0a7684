"""A bzImage holds a kernel that QEMU can boot as it is."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given

from bench.kernels.vmlinux import bootable, decompressed, unpack
from tests.unit.fuzz.strategies import spoiled

KERNEL = b"\x7fELF" + bytes(range(256)) * 64
PACKED = {
    "xz": lzma.compress(KERNEL) + struct.pack("<I", len(KERNEL)),
    "gzip": gzip.compress(KERNEL),
    "zstd": subprocess.run(("zstd", "-c"), input=KERNEL, capture_output=True, check=True).stdout
    + struct.pack("<I", len(KERNEL)),
}


def image(payload: bytes, sectors: int = 2) -> bytes:
    """Return a bzImage up to the end of its payload: `sectors` of set-up code, some code, the payload."""
    data = bytearray((sectors + 1) * 512)
    data[0x1F1] = sectors
    struct.pack_into("<II", data, 0x248, 100, len(payload))
    return bytes(data) + bytes(100) + payload + b"what follows"


@pytest.mark.parametrize("kind", PACKED)
def test_the_kernel_comes_out_whole(kind: str) -> None:
    assert decompressed(image(PACKED[kind])) == KERNEL


def unpacked(directory: Path, payload: bytes, config: str) -> Path:
    (directory / "config").write_text(config, "ascii")
    (directory / "vmlinuz").write_bytes(image(payload))
    return directory


def test_it_is_made_once_where_the_kernel_has_an_entry_for_it(tmp_path: Path) -> None:
    unpack(unpacked(tmp_path, PACKED["xz"], "CONFIG_PVH=y\n"))
    assert bootable(tmp_path).read_bytes() == KERNEL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "vmlinux", "vmlinuz"]


@pytest.mark.parametrize(("payload", "config"), [(PACKED["xz"], ""), (b"lz4, or what will come", "CONFIG_PVH=y\n")])
def test_what_cannot_be_booted_so_is_booted_as_it_is(payload: bytes, config: str, tmp_path: Path) -> None:
    unpack(unpacked(tmp_path, payload, config))
    assert bootable(tmp_path) == tmp_path / "vmlinuz"


@given(data=spoiled(image(PACKED["xz"])))
def test_a_damaged_image_is_no_traceback(data: bytes) -> None:
    decompressed(data)
