"""What a guest gets: the modules with which it is saved, and those that its job adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import native
from bench.kernels import image
from bench.kernels.base import Command
from bench.kernels.modules import Modules

DEPENDENCIES = """\
virtio_pci.ko:
virtio_console.ko:
overlay.ko:
netfs.ko:
9pnet.ko: netfs.ko
9pnet_virtio.ko: 9pnet.ko netfs.ko
9p.ko: 9pnet.ko netfs.ko
veth.ko:
bridge.ko: stp.ko
stp.ko:
br_netfilter.ko: bridge.ko stp.ko
vxlan.ko:
libcrc32c.ko:
crc32c_generic.ko:
nf_conntrack.ko: libcrc32c.ko
nf_nat.ko: nf_conntrack.ko libcrc32c.ko
iptable_nat.ko: nf_nat.ko nf_conntrack.ko libcrc32c.ko
ip_vs.ko: nf_conntrack.ko libcrc32c.ko
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    """The modules of a kernel that has no crc32c_intel and no xt_nat of its own."""
    tmp_path.joinpath("modules.dep").write_text(DEPENDENCIES)
    tmp_path.joinpath("init").write_bytes(b"")
    for line in DEPENDENCIES.splitlines():
        tmp_path.joinpath(line.partition(":")[0]).write_bytes(b"")
    monkeypatch.setattr(native, "binary", lambda name: tmp_path / name)
    monkeypatch.setattr("bench.kernels.shares.transport", lambda modules: "9p")
    return Modules(tmp_path)


def booted(modules: Modules) -> list[str]:
    listing = image.base(modules).partition(b"job/boot\0")[2].partition(b"0707")[0].strip(b"\0").decode()
    return [line.removeprefix("/boot/").removesuffix(".ko") for line in listing.splitlines()]


def test_a_guest_is_saved_with_the_modules_of_every_lab(modules: Modules) -> None:
    names = booted(modules)
    assert {"veth", "bridge", "br_netfilter", "vxlan", "nf_nat", "iptable_nat"} <= set(names)
    assert "ip_vs" not in names  # it is a plane's
    assert len(names) == len(set(names))


def test_a_checksum_is_there_before_the_kernel_would_start_modprobe_for_it(modules: Modules) -> None:
    names = booted(modules)
    assert names.index("crc32c_generic") < names.index("libcrc32c") < names.index("nf_conntrack")


def test_a_job_adds_the_modules_that_the_guest_was_not_saved_with(modules: Modules, tmp_path: Path) -> None:
    job = image.job(Command(("true",), {}, "/", modules=("veth", "nf_nat", "ip_vs")), modules, {}, 0, awake=False)
    assert job.startswith(b"modules %d\n%s\n" % (len(f"{tmp_path}/ip_vs.ko\n"), f"{tmp_path}/ip_vs.ko".encode()))
