"""What the machine lacks is found by one list, and told or installed by one apt line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.prepare import machine
from bench.prepare.machine import Needed
from dataplanes.kernel import distribution
from tests.conftest import ROOT
from tests.unit.conftest import Bench

LACKING = [Needed("no-such-package", "command", "no-such-command"), Needed("no-such-package", "file", "/no/such/file")]


def test_the_list_is_read_by_the_script_and_the_program() -> None:
    words = subprocess.run(
        ["sh", "-c", f"grep -v '^#' {ROOT}/bench/prepare/needs"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert words == [word for each in machine.needed() for word in (each.package, each.kind, each.name)]
    assert {each.kind for each in machine.needed()} == {"module", "command", "static", "file"}
    for name in ("run", "Containerfile"):
        assert "bench/prepare/needs" in (ROOT / name).read_text("utf-8")


def test_what_is_there_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PATH", str(tmp_path))
    (tmp_path / "busybox").write_bytes(b"\x7fELF /lib64/ld-linux.so")
    (tmp_path / "busybox").chmod(0o755)
    busybox = Needed("busybox-static", "static", "busybox")
    assert not busybox.there(), "a dynamic one has no libraries in the initramfs"
    (tmp_path / "busybox").write_bytes(b"\x7fELF")
    assert busybox.there()
    assert Needed("", "command", "busybox").there()
    assert Needed("", "file", str(tmp_path)).there()
    assert Needed("", "module", "json").there()
    assert not Needed("", "module", "no_such_module").there()
    assert [each.there() for each in LACKING] == [False, False]


def test_the_distributions_modules_are_found_last_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in an environment of its own, as pipx makes it, sees neither nftables nor bcc."""
    monkeypatch.setattr(distribution, "DIRECTORY", str(tmp_path))
    (tmp_path / "only_there.py").write_text("")
    (tmp_path / "json.py").write_text("raise RuntimeError")
    before = [*sys.path]
    assert distribution.has("only_there")
    with distribution.modules():
        import only_there  # type: ignore[import-not-found]
    assert only_there.__file__ == str(tmp_path / "only_there.py")
    assert sys.path == before
    del sys.modules["only_there"]


def test_a_user_who_may_not_install_gets_the_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing", lambda: LACKING)
    monkeypatch.setattr(machine, "may_install", lambda: None)
    done = bench("doctor", "nft-lb", "--fix")
    assert done.exit_code == 3
    line = "sudo apt-get update && sudo apt-get install -y --no-install-recommends no-such-package"
    assert done.stderr.strip().endswith(f"({line})")
    assert "(bench doctor --fix)" in bench("doctor", "nft-lb").stdout


@pytest.mark.parametrize(("left", "code"), [([], 0), (LACKING, 3)])
def test_who_may_install_installs_by_one_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, left: list[Needed], code: int
) -> None:
    found = [LACKING, left]
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(machine, "missing", lambda: found.pop(0) if len(found) > 1 else found[0])
    monkeypatch.setattr(machine, "may_install", lambda: ["sudo", "-n"])
    monkeypatch.setattr(
        "bench.cli.doctor.subprocess", SimpleNamespace(run=lambda argv, **more: ran.append(tuple(argv)), DEVNULL=-3)
    )
    assert bench("doctor", "nft-lb", "--fix").exit_code == code
    install = ("sudo", "-n", "apt-get", "install", "-y", "--no-install-recommends", "no-such-package")
    assert ran == [("sudo", "-n", "apt-get", "update"), install]


def test_where_nothing_is_missing_nothing_is_installed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing", list)
    monkeypatch.setattr(machine, "may_install", lambda: pytest.fail("there is nothing to install"))
    assert bench("doctor", "nft-lb", "--fix").exit_code == 0
