"""A lab on the host's kernel ends with its owner, as does everything the user started in it, and has the terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scenarios import journal
from tests.conftest import ROOT

BENCH = [str(Path(sys.executable).with_name("bench"))]
LAB = [*BENCH, "lab", "--dataplane", "direct", "--kernel", "host"]
SLEEPS = """
import os, sys
from bench.kernels.base import Command
from bench.kernels.host import HostKernel

try:
    HostKernel().execute(Command(("sleep", "4242"), dict(os.environ), "/"), print)
except KeyboardInterrupt as caught:
    sys.exit(128 + caught.args[0])
"""
DAEMONS = "setsid sleep 4242 & nohup sleep 4242 & (setsid sleep 4242 &); container my-web.1 setsid sleep 4242 & "


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_STATE", str(tmp_path / "state"))


def sleepers() -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if each.read_bytes() == b"sleep\0004242\0":
                found.append(int(each.parent.name))
        except OSError:
            continue
    return found


def await_sleepers(count: int) -> None:
    deadline = time.monotonic() + 120
    while len(sleepers()) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(sleepers()) == count


def test_kill_9_takes_a_users_daemons_along_and_clean_the_rest() -> None:
    namespaces = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    with subprocess.Popen([*LAB, "--", "sh", "-c", f"{DAEMONS} exec sleep 4242"], stderr=subprocess.DEVNULL) as owner:
        await_sleepers(5)
        owner.kill()
    assert journal.clean()
    assert sleepers() == []
    assert os.listdir("/run/netns") == namespaces


def test_what_a_user_left_running_ends_with_the_lab() -> None:
    done = subprocess.run([*LAB, "--", "sh", "-c", f"{DAEMONS} exit 9"], capture_output=True, check=False)
    assert done.returncode == 9
    assert sleepers() == []


def test_processes_of_a_lab_are_numbered_and_seen_as_one_expects() -> None:
    script = "sleep 4242 & test -d /proc/$! && kill $! && wait $!; ps -e -o pid= | head -1"
    done = subprocess.run([*LAB, "--", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1"], done.stderr


class Terminal:
    """A lab with its shell on a terminal of its own."""

    def __init__(self) -> None:
        self.pid, self._master = pty.fork()
        if not self.pid:
            os.environ["SHELL"] = "/bin/sh"
            os.execv(LAB[0], LAB)
        self.expect("# ")

    def expect(self, text: str) -> None:
        seen, deadline = b"", time.monotonic() + 120
        while text.encode() not in seen:
            assert select.select([self._master], [], [], max(deadline - time.monotonic(), 0))[0], seen
            seen += os.read(self._master, 4096)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> int:
        """Close the terminal, and return how the program ended."""
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_the_shell_has_the_terminal_and_ctrl_c_is_its_commands() -> None:
    terminal = Terminal()
    terminal.type("sleep 4242\n")
    await_sleepers(1)
    terminal.type("\x03")
    await_sleepers(0)
    terminal.type("echo $((6000 + 66))\n")
    terminal.expect("6066")
    terminal.type("exit 7\n")
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 7


def test_a_closed_terminal_ends_the_lab() -> None:
    terminal = Terminal()
    terminal.type("setsid sleep 4242 & sleep 4242\n")
    await_sleepers(2)
    assert terminal.close() == -signal.SIGHUP
    assert sleepers() == []
    assert journal.clean() == []


def test_a_signal_that_comes_as_the_command_is_started_is_not_lost() -> None:
    for moment in range(10):
        with subprocess.Popen([sys.executable, "-c", SLEEPS], cwd=ROOT) as owner:
            while not _started(owner):
                assert owner.poll() is None
            time.sleep(moment / 1000)
            owner.send_signal(signal.SIGTERM)
            assert owner.wait(30) == 128 + signal.SIGTERM


def _started(owner: subprocess.Popen[bytes]) -> bool:
    """Return True once the process has a child."""
    return bool(Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text("ascii"))
