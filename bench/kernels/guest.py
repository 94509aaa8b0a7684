"""A kernel booted in QEMU over this machine's own root file system, read-only, with one command to run.

Needs neither root nor KVM, and makes no file: the initramfs and the console log are in memory, the command's streams
are sockets. QEMU dies with us; init powers off when we hang up.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.kernels import image
from bench.kernels.base import EVENTS_FD, Command, Kernel, parse_config
from bench.kernels.modules import Modules
from bench.kernels.relay import Lines, Relay, settle, signals, write_all
from dataplanes.errors import BenchError, GuestPanic, Prerequisite, TimedOut

QEMU = "qemu-system-x86_64"
_PORTS = ("in", "out", "err", "events", "control")
_MEMORY = "2G"
_CPUS = 2
_CONSOLE_TAIL = 15
_CMDLINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr norandmaps random.trust_cpu=on tsc=reliable no_timer_check"
    # khugepaged puts some process's pages together every ten seconds: some 20 million instructions in one round and
    # not in the next.
    " transparent_hugepage=never"
)


class Guest(Kernel):
    """A kernel image and its modules, as they lie unpacked in a directory."""

    emulator = QEMU

    def __init__(self, name: str, clock: str, vmlinuz: Path, modules: Modules, config: Path, *, kvm: bool) -> None:
        self.name = name
        self.release = modules.directory.name
        self.clock = clock
        self.accelerated = kvm
        self._vmlinuz = vmlinuz
        self._modules = modules
        self._config = config

    def config(self) -> Mapping[str, str] | None:
        return parse_config(self._config.read_text("ascii")) if self._config.exists() else None

    def has_module(self, name: str) -> bool:
        return self._modules.has(name)

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        if shutil.which(QEMU) is None:
            raise Prerequisite(f"no {QEMU}", why="the guest runs in it", fix="apt-get install qemu-system-x86")
        command = _inside(command)
        shares = {f"out{number}": path for number, path in enumerate(command.outputs)}
        with ExitStack() as stack:
            initrd = stack.enter_context(_memory("initrd", image.base(self._modules)))
            job = image.job(command, self._modules, shares, int(time.time()))
            os.write(initrd, job)
            console = stack.enter_context(_memory("console", b""))
            pairs = [socket.socketpair() for _ in _PORTS]
            for ours, theirs in pairs:
                stack.enter_context(ours)
                stack.enter_context(theirs)
            passed = (initrd, console, *(theirs.fileno() for _, theirs in pairs))
            process = subprocess.Popen(
                self._argv(shares, *passed),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=passed,
            )
            stack.callback(_end, process)
            for _, theirs in pairs:
                theirs.close()
            session = _Session(command, process, [ours for ours, _ in pairs], on_event)
            code = session.run()
            if code is None:
                raise self._down(process, console)
            return settle(code, session.caught)

    def _argv(self, shares: Mapping[str, str], initrd: int, console: int, *ports: int) -> list[str]:
        """The QEMU command line; `setpriv` makes the kernel kill it when we die."""
        argv = ["setpriv", "--pdeathsig", "KILL", QEMU, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-no-reboot", "-M", "q35", "-m", _MEMORY, "-kernel", str(self._vmlinuz)]
        argv += ["-initrd", f"/proc/self/fd/{initrd}", "-append", _CMDLINE, "-serial", f"file:/proc/self/fd/{console}"]
        if self.clock == "instructions":
            argv += ["-cpu", "max", "-smp", "1", "-accel", "tcg", "-icount", "shift=0,sleep=off", "-rtc", "clock=vm"]
        elif self.accelerated:
            argv += ["-cpu", "host", "-smp", str(_CPUS), "-accel", "kvm"]
        else:
            argv += ["-cpu", "max", "-smp", str(_CPUS), "-accel", "tcg,thread=multi"]
        argv += ["-device", "virtio-serial-pci,max_ports=8"]
        for name, port in zip(_PORTS, ports, strict=True):
            argv += ["-chardev", f"socket,id={name},fd={port}"]
            argv += ["-device", f"virtserialport,chardev={name},name={name}"]
        for tag, path in {"root": "/", **shares}.items():
            access = "readonly=on" if tag == "root" else "readonly=off"
            argv += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap,{access}"]
            argv += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        return argv

    def _down(self, process: subprocess.Popen[bytes], console: int) -> BenchError:
        """What to say when the guest has gone without an exit code."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        lines = os.pread(console, 1 << 20, 0).decode(errors="replace").replace("\r", "").splitlines()
        if not lines and said:
            return BenchError("QEMU failed", where=self.name, why=said.splitlines()[-1])
        for line in lines[-_CONSOLE_TAIL:]:
            print(line, file=sys.stderr)
        panic = next(
            (line for line in lines if "Kernel panic" in line or "guest init:" in line), "no panic on its console"
        )
        return GuestPanic("the guest's kernel went down", where=f"{self.name} ({self.release})", why=panic.strip())


class _Session:
    """The conversation with one guest: four streams, and the control port."""

    def __init__(
        self,
        command: Command,
        process: subprocess.Popen[bytes],
        ports: list[socket.socket],
        on_event: Callable[[bytes], None],
    ) -> None:
        self._command = command
        self._process = process
        self._ports = dict(zip(_PORTS, ports, strict=True))
        self._on_event = on_event
        self._code: int | None = None
        self._running = False
        self.caught: list[int] = []

    def run(self) -> int | None:
        """Until the guest is gone; its command's exit code, or None if it never told one."""
        relay = Relay(self._command.timeout)
        ports = self._ports
        with ExitStack() as stack:
            stack.callback(relay.close)
            interrupts = stack.enter_context(signals())
            if self._command.tty:
                stack.enter_context(_raw_terminal())
                self._tell_size()
            relay.watch(ports["out"].fileno(), lambda data: write_all(1, data))
            relay.watch(ports["err"].fileno(), lambda data: write_all(2, data))
            relay.watch(ports["events"].fileno(), Lines(self._on_event).feed)
            relay.watch(ports["control"].fileno(), Lines(self._told).feed)
            relay.watch(interrupts, self._forward, counts=False)
            with suppress(OSError):
                os.fstat(0)
                self._feed_stdin(relay)
            if not relay.run():
                self._process.kill()
                where = " ".join(self._command.argv[:3])
                raise TimedOut("time is up", where=where, why=f"{self._command.timeout:g} s")
        return self._code

    def _feed_stdin(self, relay: Relay) -> None:
        port = self._ports["in"]

        def feed(data: bytes) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                if data:
                    port.sendall(data)
                else:
                    port.shutdown(socket.SHUT_WR)

        relay.watch(0, feed, counts=False)

    def _told(self, line: bytes) -> None:
        if line == b"R":
            self._running = True
        elif line.startswith(b"X"):
            self._code = int(line[1:])

    def _forward(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._tell_size()
                continue
            if not self._running:  # nothing of the command's is at stake: do not wait for the kernel to boot
                self._code = 128 + number
            if not self._running or number in self.caught:  # asked twice: do not wait either
                self._process.kill()
            self.caught.append(number)
            self._tell(f"S{number}\n")

    def _tell_size(self) -> None:
        if self._command.tty:
            size = os.get_terminal_size(0)
            self._tell(f"W{size.lines} {size.columns}\n")

    def _tell(self, text: str) -> None:
        with suppress(OSError):
            self._ports["control"].sendall(text.encode())


def _inside(command: Command) -> Command:
    environment = {**command.env, "BENCH_EVENTS_FD": str(EVENTS_FD), "HOME": command.env.get("HOME", "/root")}
    environment["PATH"] = command.env.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    return Command(
        command.argv, environment, command.cwd, command.tty, command.timeout, command.modules, command.outputs
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr:
        process.stderr.close()


@contextmanager
def _memory(name: str, content: bytes) -> Iterator[int]:
    """A file in memory, open for QEMU to inherit."""
    handle = os.memfd_create(name)
    try:
        os.write(handle, content)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
