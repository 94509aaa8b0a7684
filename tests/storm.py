"""Commands that are struck at random moments. After one `bench clean` everything must be as it was before.

`python -m tests.storm --kills 500 --signals 200` as root does this on the machine's own kernel. With `--kernel guest`
it does it in guests, as any user. The commands run in mount and network namespaces of their own, where only they leave
anything.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from dataplanes import paths
from tests.conftest import ROOT

_BENCH = (str(Path(sys.executable).with_name("bench")),)
_DAEMONS = (
    "setsid sleep 1000 & nohup sleep 1000 >/dev/null 2>&1 & (sleep 1000 &); "
    "container my-busybox.1 setsid sh -c 'sleep 1000 & sleep 1000' & container my-web.1 sleep 1000 & exec sleep 1000"
)
_BPF = {"programs": 11, "maps": 12, "links": 31}
"""Return the ids that the kernel enumerates (bpf(2): BPF_PROG_GET_NEXT_ID and its kin)."""
_IN_GUEST = os.uname().nodename == "guest"
"""Return True in a guest, where nobody else has BPF programs."""
_SETTLES = 10.0
"""Seconds for what the kernel frees later, such as BPF programs after a grace period."""

COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "host": (
        ("lab", "--dataplane", "nft-container", "--kernel", "host", "--", "sh", "-c", _DAEMONS),
        ("lab", "--dataplane", "ebpf-tc", "--kernel", "host", "--", "sh", "-c", _DAEMONS),
        ("run", "--dataplane", "nft-lb", "--kernel", "host", "--repeat", "1", "--connections", "100"),
        ("matrix", "--dataplane", "nft-overlay", "--kernel", "host", "-k", "reach.any or reach.payload"),
        ("inspect", "--dataplane", "nft-host", "--kernel", "host"),
    ),
    "guest": (
        ("lab", "--dataplane", "ipvs-container", "--kernel", "guest", "--", "sh", "-c", _DAEMONS),
        ("run", "--dataplane", "nft-container", "--kernel", "guest", "--repeat", "1", "--connections", "100"),
    ),
}


class Machine:
    """Return what a command could leave, as it is now."""

    def __init__(self, mark: str) -> None:
        """Return the processes with an environment variable that the commands, and all that they start, have."""
        self._mark = mark.encode()

    def processes(self) -> dict[int, str]:
        """Return every process that a command has started and that still runs, with any parent."""
        found = {}
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (each / "environ").read_bytes().split(b"\0"):
                    found[int(each.name)] = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120]
            except OSError:
                continue
        return found

    def state(self) -> dict[str, object]:
        return {
            "processes": sorted(self.processes().values()),
            "state": _listing(os.environ["BENCH_STATE"]),
            "cache": _listing(str(paths.cache() / "bin")),
            **(self._everything() if os.geteuid() == 0 else {}),
            **({f"bpf {what}": _identifiers(command) for what, command in _BPF.items()} if _IN_GUEST else {}),
        }

    def _everything(self) -> dict[str, object]:
        return {
            "mounts": Path("/proc/self/mountinfo").read_text("utf-8").splitlines(),
            "cgroups": sorted(path for path, _, _ in os.walk("/sys/fs/cgroup") if "vip-bench" in path),
            **{path: _listing(path) for path in ("/run", "/tmp", "/etc/netns")},
            **{each: _said(each) for each in ("ip -o address", "ip rule", "ip route", "sysctl -a")},
        }


def _listing(path: str) -> list[str]:
    return sorted(
        os.path.join(base, name)
        for base, names, files in os.walk(path)
        for name in (*names, *files)
        if "/." not in base
    )


def _said(command: str) -> list[str]:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    varying = ("random", "uuid", "fs.", "nr_", "ns_last_pid", "kernel.", "_count", "dev.", "vm.", "user.")
    return [line for line in done.stdout.splitlines() if not any(word in line for word in varying)]


def _identifiers(command: int) -> list[int]:
    libc = ctypes.CDLL(None, use_errno=True)
    found: list[int] = []
    attribute = (ctypes.c_uint32 * 32)()
    while libc.syscall(321, command, attribute, ctypes.sizeof(attribute)) == 0:
        found.append(attribute[1])
        attribute[0] = attribute[1]
    return found


def differences(before: dict[str, object], now: dict[str, object]) -> list[str]:
    told = []
    for what, was in before.items():
        assert isinstance(was, list)
        found = now[what]
        assert isinstance(found, list)
        told += [f"{what}: + {each}" for each in found if each not in was]
        told += [f"{what}: - {each}" for each in was if each not in found]
    return told


class Storm:
    """A storm: it strikes one command after another, and compares the states."""

    def __init__(self, commands: Sequence[Sequence[str]], seed: int, say: Callable[[str], None]) -> None:
        self._commands = commands
        self._random = random.Random(seed)
        self._say = say
        mark = f"BENCH_STORM={os.getpid()}"
        self._environ = {**os.environ, "BENCH_STORM": str(os.getpid())}
        self._machine = Machine(mark)
        self._length: dict[Sequence[str], float] = {}
        self.faults: list[str] = []
        self.struck: Counter[str] = Counter()
        for command in commands:
            self._length[command] = self._measure(command)
        self._before = self._machine.state()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*_BENCH, *command],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_as_from_a_terminal,
        )

    def _measure(self, command: Sequence[str]) -> float:
        """Return how long a command takes, or how long until a lab's command runs."""
        begun = time.monotonic()
        process = self._start(command)
        guest = "guest" in command
        while process.poll() is None:
            running = [line for line in self._machine.processes().values() if line.startswith("sleep 1000")]
            if len(running) > 5 or (guest and time.monotonic() - begun > 12):
                break
            time.sleep(0.02)
        length = time.monotonic() - begun
        failed = process.returncode not in (None, 0)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
        assert not failed, f"{command}: {err}"
        self._say(f"{' '.join(command)[:70]}: {length:.1f} s")
        return length

    def strike(self, kind: str) -> None:
        """Run one command and strike it once: kill any of its processes, or signal the program or its whole group."""
        command = self._random.choice(list(self._commands))
        process = self._start(command)
        moment = self._random.uniform(0, 1.2) * self._length[command]
        time.sleep(moment)
        told = f"{command[0]} {command[2]} at {moment:.2f} s"
        if kind == "kill":
            told += self._kill(process)
        else:
            told += self._signal(process)
        cleaned = self._clean()
        deadline = time.monotonic() + _SETTLES
        while (left := differences(self._before, self._machine.state())) and time.monotonic() < deadline:
            if any("processes" in line or "/run" in line for line in left):
                break  # the kernel does not free these
        if left:
            self.faults.append(f"{told}: left {left[:5]}")
            self._say(self.faults[-1])
        if kind == "signal" and cleaned:
            self.struck["signals that left work to clean"] += 1
            self._say(f"{told}: {cleaned.splitlines()[:2]}")

    def _kill(self, process: subprocess.Popen[str]) -> str:
        victims = self._machine.processes()
        chosen = process.pid if not victims or self._random.random() < 0.4 else self._random.choice(sorted(victims))
        name = "bench" if chosen == process.pid else _short(victims[chosen])
        self.struck[name] += 1
        try:
            os.kill(chosen, signal.SIGKILL)
        except ProcessLookupError:
            name += " (gone)"
        try:
            _, err = process.communicate(timeout=1)
        except subprocess.TimeoutExpired:  # it goes on without the process that was killed
            process.kill()
            _, err = process.communicate()
        if is_ours(err):
            self.faults.append(f"{name}: {err}")
            self._say(self.faults[-1])
        return f", kill -9 {name}"

    def _signal(self, process: subprocess.Popen[str]) -> str:
        number = self._random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        group = self._random.random() < 0.5
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, number) if group else process.send_signal(number)
        told = f", {signal.Signals(number).name}{' to its group' if group else ''}"
        self.struck[told[2:]] += 1
        try:
            _, err = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
            self.faults.append(f"{told}: it does not end: {err}")
        if not ended and process.returncode not in (-number, 0, 1):  # 0, 1: it had just ended by itself
            self.faults.append(f"{told}: exit code {process.returncode}: {err}")
            self._say(self.faults[-1])
        if is_ours(err):
            self.faults.append(f"{told}: {err}")
            self._say(self.faults[-1])
        return told

    def _clean(self) -> str:
        done = subprocess.run([*_BENCH, "clean"], env=os.environ, capture_output=True, text=True, check=False)
        if done.returncode or done.stderr:
            self.faults.append(f"bench clean: {done.returncode}: {done.stderr}")
            self._say(self.faults[-1])
        return done.stdout


def _as_from_a_terminal() -> None:
    """Restore signals that the storm's starter may have set to be ignored, so that its children do not inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def is_ours(err: str) -> bool:
    """Return True for a traceback of ours. The interpreter's own start, some 20 ms, may have one."""
    return "Traceback" in err and any(f"{ROOT}/{room}/" in err for room in ("bench", "scenarios", "dataplanes"))


def _short(line: str) -> str:
    for word in ("keep-", "bench.start inside", "bench.start lane", "vipload", "qemu", "sleep", "sh -c"):
        if word in line:
            return word
    return line.split(" ")[0]


def _isolate(kernel: str) -> None:
    """Become a process whose files and network nobody else changes: /run and /tmp are new, /etc is a copy."""
    # There is no network in there. So what is downloaded and compiled once must be in the cache before.
    for command in COMMANDS[kernel]:
        if command[0] == "lab":
            subprocess.run([*_BENCH, *command[: command.index("--")], "--", "true"], check=True)
    argv = ["unshare", "--mount", "--net", sys.executable, "-m", "tests.storm", "--isolated", *sys.argv[1:]]
    os.execvp(argv[0], argv)


def _isolated() -> None:
    while subprocess.run(("umount", "--lazy", "/run/netns"), check=False, capture_output=True).returncode == 0:
        """Return the namespaces of others."""
    for command in (
        "mount -t tmpfs storm /tmp",
        "mount -t tmpfs storm /run",
        "cp -a /etc /run/etc",
        "rm -rf /run/etc/netns",
        "mount --bind /run/etc /etc",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", type=int, default=10)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--kernel", choices=COMMANDS, default="host")
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if os.geteuid() == 0:
        _isolated() if asked.isolated else _isolate(asked.kernel)
        os.environ["BENCH_STATE"] = "/run/state"
    os.environ.setdefault("BENCH_STATE", f"/tmp/storm-{os.getpid()}")
    storm = Storm(COMMANDS[asked.kernel], asked.seed, lambda line: print(line, flush=True))
    begun = time.monotonic()
    kinds = ["kill"] * asked.kills + ["signal"] * asked.signals
    random.Random(asked.seed).shuffle(kinds)
    for kind in kinds:
        storm.strike(kind)
    for name, count in sorted(storm.struck.items()):
        print(f"{count:5} {name}")
    took = time.monotonic() - begun
    print(f"{asked.kills} kills, {asked.signals} signals in {took:.0f} s: {len(storm.faults)} faults")
    print("\n".join(storm.faults[:3]))  # once more, at the end, where a failed test's report shows it
    return bool(storm.faults)


if __name__ == "__main__":
    sys.exit(main())
