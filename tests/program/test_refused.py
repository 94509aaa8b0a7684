"""A request that is wrong and a machine that lacks something are told before anything exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import kernels
from tests.conftest import ROOT
from tests.program.command import bench

SEED = (ROOT / "scenarios" / "files" / "seed.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "--dataplane", "ipvs-contaner"), 2, "did you mean ipvs-container?"),
        (("run",), 2, "Missing option '--dataplane'"),
        (("run", "--dataplane", "direct", "--repeat", "0"), 2, "0 is not in the range"),
        (("run", "--dataplane", "direct", "--scenario", "sed"), 2, "did you mean seed?"),
        (("run", "--dataplane", "direct", "--scenario", "/no/such.toml"), 2, "No such file"),
        (("run", "--dataplane", "direct", "--output", "/no/such/file.json"), 2, "cannot write the output file"),
        (("run", "--dataplane", "direct", "--kernel", "debian-6.2"), 2, "unknown kernel 'debian-6.2'"),
        (("run", "--dataplane", "direct", "--kernel", "/etc/passwd"), 2, "not a Linux kernel image"),
        (("run", "--dataplane", "direct", "--kernel", "host", "--clock", "instructions"), 2, "no instruction clock"),
        (
            ("run", "--dataplane", "nft-lb", "--kernel", "guest", "--ports", "64"),
            2,
            "crr: 64 client ports are too few for 1,000 connections",
        ),
        (("run", "-d", "nft-lb", "--kernel", "guest", "-n", "40000"), 2, "too few for 40,000 connections"),
        (("lab", "--dataplane", "direct,ipvs-lb", "--", "true"), 2, "takes one data plane"),
        (("lab", "-d", "direct", "-d", "ipvs-lb", "--", "true"), 2, "takes one data plane"),
        (("inspect", "--dataplane", "ipvs-container@9.9"), 2, "it has: 1.12.0, 1.12.6, 1.12.6-tweaked, 1.13"),
        (("run", "--dataplane", "nft-lb+speed=9"), 2, "unknown knob 'speed' (knobs, as knob=value: scheduler)"),
        (("run", "--dataplane", "direct", "--jobs", "0"), 2, "0 is not in the range"),
        (("run", "--dataplane", "direct", "--kernel", "/no/such.deb"), 2, "no such package"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_2(arguments: tuple[str, ...], code: int, says: str, tmp_path: Path) -> None:
    done = bench(*arguments, BENCH_STATE=str(tmp_path / "state"))
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "my-web"', 'nam = "my-web"', ":10: services[0]: Object contains unknown field `nam`"),
        ("10.0.0.2", "10.0.1.2", ":12: services[0].vip: 10.0.1.2 is outside 10.0.0.0/24"),
        ('node = "worker1"', 'node = "worker9"', ":16: services[0].tasks[2].node: no node 'worker9'"),
        ("10.0.0.4", "10.0.0.3", ":15: services[0].tasks[1].address: 10.0.0.3 is taken"),
        ("port = 80", 'port = "http"', ":28: traffic.port: Expected `int`, got `str`"),
        ('client = "my-busybox.1"', 'client = "nobody"', ":26: traffic.client: no task 'nobody'"),
        ("[traffic]", "[traffic", ":25: not TOML"),
    ],
)
def test_a_bad_scenario_is_refused_with_line_and_field(old: str, new: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(SEED.replace(old, new, 1), "utf-8")
    done = bench("run", "--dataplane", "direct", "--scenario", str(file), BENCH_STATE=str(tmp_path / "state"))
    assert done.returncode == 2
    assert f"{file}{says}" in done.stderr
    assert not (tmp_path / "state").exists()


def test_what_the_machine_lacks_is_exit_3(tmp_path: Path) -> None:
    kernels.resolve("guest", "wall")  # downloads the kernel if it is missing; with a bare PATH it could not
    empty = tmp_path / "bin"
    empty.mkdir()
    no_qemu = bench("lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "true", PATH=str(empty))
    assert (no_qemu.returncode, "qemu-system-x86_64" in no_qemu.stderr) == (3, True), no_qemu.stderr
    no_apt = bench(
        "lab", "--dataplane", "direct", "--kernel", "guest", "--", "true", PATH=str(empty), BENCH_CACHE=str(empty)
    )
    assert (no_apt.returncode, "no apt" in no_apt.stderr) == (3, True), no_apt.stderr
    blocked = tmp_path / "file"
    blocked.touch()
    no_cache = bench("lab", "--dataplane", "direct", "--kernel", "guest", "--", "true", BENCH_CACHE=str(blocked))
    assert (no_cache.returncode, "cannot write to the cache" in no_cache.stderr) == (3, True), no_cache.stderr


def test_a_kernel_without_ipvs_is_told_before_anything_is_created(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("CONFIG_NET_NS=y\n", "ascii")
    release = "1.2.3-none"
    (tmp_path / "lib" / "modules" / release).mkdir(parents=True)
    (tmp_path / "lib" / "modules" / release / "modules.dep").touch()
    (tmp_path / "lib" / "modules" / release / "modules.builtin").write_text("kernel/9pnet_virtio.ko\nkernel/9p.ko\n")
    image = bytearray(0x1000)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x300).to_bytes(2, "little")
    image[0x500 : 0x500 + 30] = (release + " (x)\0").encode().ljust(30, b"\0")
    (tmp_path / "vmlinuz").write_bytes(image)
    done = bench("lab", "--dataplane", "ipvs-container", "--kernel", str(tmp_path / "vmlinuz"), "--", "true")
    assert done.returncode == 3
    assert "no module ip_vs" in done.stderr
