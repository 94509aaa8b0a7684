"""A guest is a kernel to run a command on: streams, exit codes, signals and time pass through."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bench.kernels import Command, expand, resolve
from dataplanes.errors import GuestPanic
from tests.conftest import ROOT


def guest(
    *argv: str, clock: str = "wall", kernel: str = "guest", stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "bench.kernels", kernel, clock, *argv],
        capture_output=True,
        check=False,
        timeout=200,
        input=stdin,
        cwd=ROOT,
    )


def test_the_kernels_that_figures_are_published_for_boot() -> None:
    for name in expand("guests"):
        done = guest("uname", "-r", kernel=name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode().startswith(name.partition("-")[2])


def test_exit_code_and_streams_are_the_commands() -> None:
    done = guest("sh", "-c", "pwd; echo $BENCH_TEST; echo err >&2; cat; exit 42", stdin=b"typed\n")
    assert done.returncode == 42
    assert done.stdout.decode() == f"{ROOT}\n{os.environ.get('BENCH_TEST', '')}\ntyped\n"
    assert done.stderr == b"err\n"
    assert guest("no-such-command").returncode == 127
    assert guest("sh", "-c", "kill -TERM $$").returncode == 128 + 15


def test_twenty_megabytes_pass_whole() -> None:
    done = guest("head", "-c", "20000000", "/dev/zero")
    assert len(done.stdout) == 20_000_000


def test_the_guest_cannot_write_outside() -> None:
    mark = ROOT / "written-by-the-guest"
    done = guest("sh", "-c", f"echo gone > {mark} && cat {mark}")
    assert done.stdout == b"gone\n"
    assert not mark.exists()


@pytest.mark.parametrize("then", ["-1", "0"])  # it restarts at once; it hangs
def test_a_panic_is_exit_255_with_the_console(then: str) -> None:
    done = guest("sh", "-c", f"echo {then} > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger")
    assert done.returncode == 255
    assert b"Kernel panic" in done.stderr


def test_a_guest_that_does_not_come_up_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.kernels.guest._COMES_UP", 0.5)
    with pytest.raises(GuestPanic, match="did not come up"):
        resolve("guest", "wall").execute(Command(("true",), {}, "/"), lambda line: None)


def test_idle_time_is_free_under_the_instruction_clock() -> None:
    begun = time.monotonic()
    done = guest("sh", "-c", "sleep 900; cut -d. -f1 /proc/uptime", clock="instructions")
    assert int(done.stdout) >= 900
    assert time.monotonic() - begun < 60
