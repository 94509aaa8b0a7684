"""A guest is a kernel on which to run a command: streams, exit codes, signals and time pass through."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.kernels import Command, expand, packages, resolve, snapshot
from bench.kernels.guest import Guest
from bench.kernels.session import Session
from bench.kernels.snapshot import Saving
from dataplanes.errors import GuestPanic
from dataplanes.paths import cache
from tests.conftest import ROOT
from tests.lab.conftest import awaited


def guest(
    *argv: str, clock: str = "wall", kernel: str = "guest", stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "bench.outside.command", kernel, clock, *argv],
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


def test_output_that_is_read_late_passes_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the guest's command end before its output is read. A port has 128 buffers for what QEMU has not passed on."""
    start, written = Session.run, tmp_path / "written"
    sessions: list[Session] = []
    told: list[bytes] = []

    def noted(session: Session) -> int | None:
        sessions.append(session)
        return start(session)

    def read_late(line: bytes) -> None:
        if not told:
            assert awaited(written.exists)
            with suppress(subprocess.TimeoutExpired):
                sessions[-1]._process.wait(3)  # its guest must not power off yet
        told.append(line)

    monkeypatch.setattr(Session, "run", noted)
    script = f"yes | head -c 1000000 > /tmp/all; cat /tmp/all >&$BENCH_EVENTS_FD; touch {written}"
    command = Command(("sh", "-c", script), dict(os.environ) | {"BENCH_OUTPUT": str(tmp_path)}, "/")
    assert resolve("guest", "wall").execute(command, read_late) == 0
    assert len(told) == 500_000


@pytest.mark.parametrize("kernel", ["guest", *(["host"] if os.geteuid() == 0 else [])])
def test_an_input_that_is_longer_than_an_argument_may_be_reaches_the_command(kernel: str) -> None:
    given = os.urandom(11_000_000)  # as a job of 50,000 trials
    told: list[bytes] = []
    argv = ("sh", "-c", 'sha256sum < "$BENCH_INPUT" >&"$BENCH_EVENTS_FD"')
    command = Command(argv, dict(os.environ), "/", input=given)
    assert resolve(kernel, "wall").execute(command, told.append) == 0
    assert told == [hashlib.sha256(given).hexdigest().encode() + b"  -"]


@pytest.mark.parametrize("kernel", ["guest", *(["host"] if os.geteuid() == 0 else [])])
def test_a_command_that_is_to_read_no_input_leaves_it_to_whom_it_is_for(kernel: str) -> None:
    code = (
        "import os, sys; from bench.kernels import Command, resolve; "
        f"resolve('{kernel}', 'wall').execute(Command(('sh', '-c', 'cat >&2'), dict(os.environ), '/'), print); "
        "print(sys.stdin.read())"
    )
    done = subprocess.run((sys.executable, "-c", code), input=b"the next line", capture_output=True, check=True)
    assert done.stdout == b"the next line\n"


def test_the_guest_cannot_write_outside_and_does_not_see_the_machines_labs() -> None:
    mark = ROOT / "written-by-the-guest"
    own = "mountpoint -q /etc/netns && ls -A /etc/netns /run/netns 2>&1 | grep -v :"
    done = guest("sh", "-c", f"echo gone > {mark} && cat {mark}; {own}")
    assert done.stdout == b"gone\n"
    assert not mark.exists()


def test_the_guest_can_write_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "a, b"
    output.mkdir()
    monkeypatch.setenv("BENCH_OUTPUT", str(output))
    done = guest("sh", "-c", f"echo kept > '{output}/file'; echo gone > {tmp_path}/file")
    assert done.returncode == 0, done.stderr
    assert (output / "file").read_text() == "kept\n"
    assert not (tmp_path / "file").exists()
    monkeypatch.setenv("BENCH_OUTPUT", str(tmp_path / "nowhere"))
    refused = guest("true")
    assert (refused.returncode, b"BENCH_OUTPUT is no directory" in refused.stderr) == (2, True)


@pytest.mark.parametrize("then", ["-1", "0"])  # it restarts at once, or it hangs
def test_a_panic_is_exit_255_with_the_console(then: str) -> None:
    done = guest("sh", "-c", f"echo {then} > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger")
    assert done.returncode == 255
    assert b"Kernel panic" in done.stderr


def test_a_guest_that_does_not_come_up_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.kernels.session.COMES_UP", 0.0)
    monkeypatch.setattr("bench.kernels.session.STANDS_STILL", 0.05)
    with pytest.raises(GuestPanic, match="did not come up"):
        resolve("guest", "wall").execute(Command(("true",), {}, "/"), lambda line: None)


def test_a_guest_that_stands_still_while_it_comes_up_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.kernels.session.STANDS_STILL", 1.0)
    start = Session.run

    def stopped(session: Session) -> int | None:
        os.kill(session._process.pid, signal.SIGSTOP)
        return start(session)

    monkeypatch.setattr(Session, "run", stopped)
    with pytest.raises(GuestPanic, match="did not come up"):
        resolve("guest", "wall").execute(Command(("true",), {}, "/"), lambda line: None)


def saved() -> Path:
    kernel = resolve("guest", "wall")
    assert isinstance(kernel, Guest)
    path = kernel._saved(())
    assert path is not None
    return path


def test_guests_that_go_on_from_the_same_boot_have_random_numbers_of_their_own() -> None:
    told = {guest("od", "-An", "-N16", "-tx1", "/dev/urandom").stdout for _ in range(3)}
    assert saved().exists()
    assert len(told) == 3


def test_a_saved_guest_that_is_damaged_is_made_anew() -> None:
    guest("true")
    path = saved()
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole // 2)
    assert guest("echo", "well").stdout == b"well\n"
    assert guest("echo", "well").stdout == b"well\n"
    assert path.stat().st_size > 0.9 * whole


def test_ctrl_c_while_a_guest_is_saved_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signals: None
) -> None:
    def interrupted(saving: Saving, part: Path) -> None:
        part.touch()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(snapshot, "cache", lambda: tmp_path)
    monkeypatch.setattr(Saving, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resolve("guest", "wall").execute(Command(("true",), dict(os.environ), "/"), lambda line: None)


@pytest.mark.parametrize("broken", [{"_PACKER": "no-such-program"}, {"cache": lambda: Path("/proc/nowhere")}])
def test_where_nothing_can_be_saved_every_guest_boots(monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]) -> None:
    for name, value in broken.items():
        monkeypatch.setattr(snapshot, name, value)
    assert resolve("guest", "wall").execute(Command(("true",), dict(os.environ), "/"), lambda line: None) == 0


@pytest.mark.parametrize(("clock", "off"), [("wall", True), ("instructions", False)])
def test_a_guest_has_its_kernel_s_mitigations_where_something_is_measured(clock: str, off: bool) -> None:
    done = guest("cat", "/proc/cmdline", clock=clock)
    assert (b"mitigations=off" in done.stdout) == off


def test_idle_time_is_free_under_the_instruction_clock() -> None:
    begun = time.monotonic()
    done = guest("sh", "-c", "sleep 900; cut -d. -f1 /proc/uptime", clock="instructions")
    assert int(done.stdout) >= 900
    assert time.monotonic() - begun < 60


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Run twice as many busy loops as there are processors."""
    loops = [
        subprocess.Popen(["timeout", "120", "sh", "-c", "while :; do :; done"])
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    yield
    for each in loops:
        each.terminate()
        each.wait()


_READ = """
import glob, os, time
def idle():
    return int(open("/proc/stat").readline().split()[4]) / os.sysconf("SC_CLK_TCK")
begun, before, size = time.monotonic(), idle(), 0
for path in glob.iglob("/usr/lib/x86_64-linux-gnu/*.so*"):
    size += os.path.isfile(path) and len(open(path, "rb").read())
    if size > 20_000_000:
        break
waited = int.from_bytes(open("/run/bench-job/waited", "rb").read(8), "little") / 1e9
print(idle() - before, time.monotonic() - begun, waited)
time.sleep(900)
"""


@pytest.mark.usefixtures("busy_machine")
def test_the_instruction_clock_does_not_leap_while_files_are_read() -> None:
    done = guest("/usr/bin/python3", "-c", _READ, clock="instructions")
    idle, elapsed, waited = map(float, done.stdout.split())
    assert idle < 0.1, done.stdout  # without bench/kernels/awake.c it is 2 s
    assert 0 < elapsed < 2
    assert waited > 0


def test_a_package_is_a_kernel_and_virtiofs_serves_one_without_9p(cloud_kernel: str) -> None:
    mark = ROOT / "written-by-the-guest"
    script = (
        f"uname -r; mkdir /tmp/all; mount -t virtiofs root /tmp/all; echo gone > /tmp/all{mark}; echo here > {mark}"
    )
    done = guest("sh", "-c", script, kernel=cloud_kernel)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip().endswith("-cloud-amd64")
    assert b"Read-only file system" in done.stderr
    assert not mark.exists()


@pytest.mark.usefixtures("busy_machine")
def test_the_instruction_clock_does_not_leap_over_virtiofs_either(cloud_kernel: str) -> None:
    done = guest("/usr/bin/python3", "-c", _READ, clock="instructions", kernel=cloud_kernel)
    idle, elapsed, waited = map(float, done.stdout.split())
    assert idle < 0.1, done.stdout
    assert 0 < elapsed < 2
    assert waited > 0


def test_modules_without_an_index_and_packed_ones_are_settled_in_the_cache(tmp_path: Path) -> None:
    """Return modules as they come out of a package, before depmod. Debian 13 and Ubuntu compress them."""
    kernel = packages.fetch(expand("guests")[0])
    release = packages.release(kernel)
    modules = tmp_path / "lib" / "modules" / str(release)
    shutil.copytree(kernel / "lib" / "modules" / str(release) / "kernel", modules / "kernel")
    shutil.copy(kernel / "vmlinuz", tmp_path)
    for path in (modules / "kernel" / "fs").rglob("*.ko"):
        path.with_suffix(".ko.xz").write_bytes(lzma.compress(path.read_bytes(), preset=0))
        path.unlink()
    base = cache() / "own"
    before = set(base.glob("*"))
    done = guest("uname", "-r", kernel=str(tmp_path / "vmlinuz"))
    for made in set(base.glob("*")) - before:
        shutil.rmtree(made)  # the cache keeps the index for the next run with these modules, and there is none
    assert done.stdout.decode().strip() == release, done.stderr
    assert not (modules / "modules.dep").exists()
