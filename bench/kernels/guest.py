"""A kernel booted in QEMU over this machine's own root file system, read-only, with one command to run.

It needs neither root nor KVM and creates no file: the initramfs is in memory, and the console and the command's streams
are sockets. QEMU ends with this process (owned.py), and init powers off when the sockets are closed. A guest that hangs
while it boots or ends is killed.
"""

from __future__ import annotations

import hashlib
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
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from bench.kernels import image
from bench.kernels.base import EVENTS_FD, Command, Kernel, in_memory, parse_config
from bench.kernels.modules import Modules
from bench.kernels.owned import owned
from bench.kernels.relay import GRACE, Lines, Relay, exit_code, signals, write_all
from bench.kernels.shares import Shared, serve
from dataplanes.errors import BenchError, GuestPanic, Prerequisite, TimedOut, Usage
from dataplanes.texts import clean

QEMU = "qemu-system-x86_64"
_PORTS = ("in", "out", "err", "events", "control")
_STREAMS = ("console", *_PORTS)
_MEMORY = "2G"
_CPUS = 2
"""The processors of a guest under the wall clock. The instruction clock has one."""
_CONSOLE_TAIL = 15
_COMES_UP = 120.0
"""Seconds of processor time within which a guest must run its command. An emulated guest takes four.

It is not real time, which depends on the load of the machine.
"""
_STANDS_STILL = 30.0
"""Seconds of real time within which a booting guest must get some processor time. A guest that gets none hangs."""
_GOES_DOWN = 10.0
"""Seconds from the end of its command, or from its kernel's panic, within which a guest must end."""
_PANIC = "Kernel panic - not syncing"
_CMDLINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr norandmaps random.trust_cpu=on tsc=reliable no_timer_check"
    # khugepaged collapses some process's pages every ten seconds: some 20 million instructions in one round and none in
    # the next.
    " transparent_hugepage=never"
    # Debian's kernels test every cipher while they boot, which takes 0.7 of 3 s.
    " cryptomgr.notests"
)


class Guest(Kernel):
    """A kernel image and its modules, unpacked in a directory."""

    emulator = QEMU

    def __init__(self, name: str, clock: str, vmlinuz: Path, modules: Modules, config: Path, *, kvm: bool) -> None:
        self.name = name
        self.release = modules.directory.name
        self.clock = clock
        self.accelerated = kvm
        self.cpus = _CPUS
        self._vmlinuz = vmlinuz
        self._modules = modules
        self._config = config

    def config(self) -> Mapping[str, str] | None:
        return parse_config(self._config.read_text("ascii", "replace")) if self._config.exists() else None

    def fingerprint(self) -> str:
        made = hashlib.sha256(self._vmlinuz.read_bytes())
        made.update(image.base(self._modules))
        return made.hexdigest()[:12]

    def has_module(self, name: str) -> bool:
        return self._modules.has(name)

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        if shutil.which(QEMU) is None:
            raise Prerequisite(
                f"{QEMU} is not installed", why="the guest runs in it", fix="apt-get install qemu-system-x86"
            )
        command = _inside(command)
        shares = _writable(command.env.get("BENCH_OUTPUT", ""))
        with ExitStack() as stack:
            initrd = stack.enter_context(in_memory("initrd", image.base(self._modules)))
            awake = self.clock == "instructions"
            job = image.job(command, self._modules, shares, int(time.time()), awake=awake)
            os.write(initrd, job)
            shared = stack.enter_context(serve(self._modules, {"root": "/", **shares}, _MEMORY))
            pairs = [socket.socketpair() for _ in _STREAMS]
            for ours, theirs in pairs:
                stack.enter_context(ours)
                stack.enter_context(theirs)
            passed = (initrd, *(theirs.fileno() for _, theirs in pairs))
            process = stack.enter_context(
                owned(
                    self._argv(shared, *passed),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(*passed, *shared.passed),
                    start_new_session=True,  # this process passes on a terminal's Ctrl-C
                )
            )
            stack.callback(_end, process)
            for _, theirs in pairs:
                theirs.close()
            session = _Session(command, process, [ours for ours, _ in pairs], on_event)
            code = session.run()
            if code is None:
                raise self._down(process, session)
            return exit_code(code, session.caught)

    def _argv(self, shared: Shared, initrd: int, console: int, *ports: int) -> list[str]:
        """Return the QEMU command line."""
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-no-reboot", "-M", "q35", "-m", _MEMORY, "-kernel", str(self._vmlinuz)]
        argv += ["-initrd", f"/proc/self/fd/{initrd}", "-append", _CMDLINE]
        argv += ["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"]
        if self.clock == "instructions":
            argv += ["-cpu", "max", "-smp", "1", "-accel", "tcg", "-icount", "shift=0,sleep=off", "-rtc", "clock=vm"]
        elif self.accelerated:
            argv += ["-cpu", "host", "-smp", str(self.cpus), "-accel", "kvm"]
        else:
            # A thread for each processor cannot be used. In QEMU 7.2 and 8.0 a thread may run into an int3 that another
            # thread, which patches a static key, has already removed; the kernel then panics in one boot of 6.12 in 25
            # (LKML, July 2023, "qemu-x86_64 booting with 8.0.0 stil see int3"; https://bugzilla.redhat.com/2216496).
            argv += ["-cpu", "max", "-smp", str(self.cpus), "-accel", "tcg,thread=single"]
        argv += ["-device", "virtio-serial-pci,max_ports=8"]
        for name, port in zip(_PORTS, ports, strict=True):
            argv += ["-chardev", f"socket,id={name},fd={port}"]
            argv += ["-device", f"virtserialport,chardev={name},name={name}"]
        argv += shared.argv
        return argv

    def _down(self, process: subprocess.Popen[bytes], session: _Session) -> BenchError:
        """Return the error for a guest that has ended, or had to be ended, without an exit code."""
        _end(process)
        said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        lines = session.console
        if not lines and said:
            return BenchError("QEMU failed", where=self.name, why=said.splitlines()[-1])
        for line in lines[-_CONSOLE_TAIL:]:
            print(clean(line), file=sys.stderr)
        what = "the guest's kernel went down" if session.running else "the guest did not come up"
        panic = next((line for line in lines if _PANIC in line or "guest init:" in line), "no panic on its console")
        return GuestPanic(what, where=f"{self.name} ({self.release})", why=panic.strip())


class _Session:
    """The connection with one guest: four streams, the control port, and the console of its kernel."""

    def __init__(
        self,
        command: Command,
        process: subprocess.Popen[bytes],
        ports: list[socket.socket],
        on_event: Callable[[bytes], None],
    ) -> None:
        self._command = command
        self._process = process
        self._ports = dict(zip(_STREAMS, ports, strict=True))
        self._on_event = on_event
        self._relay = Relay(_STANDS_STILL)
        self._used = 0.0  # processor time at the last look
        self._code: int | None = None
        self._panicked = False
        self.running = False
        self.console: list[str] = []
        self.caught: list[int] = []

    def run(self) -> int | None:
        """Relay until the guest has ended. Return its command's exit code, or None if it told none."""
        relay, ports = self._relay, self._ports
        with ExitStack() as stack:
            stack.callback(relay.close)
            interrupts = stack.enter_context(signals())
            if self._command.tty:
                stack.enter_context(_raw_terminal())
                self._tell_size()
            relay.watch(ports["console"].fileno(), Lines(self._said).feed)
            relay.watch(ports["out"].fileno(), partial(self._pass_on, 1))
            relay.watch(ports["err"].fileno(), partial(self._pass_on, 2))
            relay.watch(ports["events"].fileno(), Lines(self._on_event).feed)
            relay.watch(ports["control"].fileno(), Lines(self._told).feed)
            relay.watch(interrupts, self._forward, counts=False)
            self._feed_stdin()
            while not (ended := relay.run()) and self._comes_up():
                relay.expire(_STANDS_STILL)
            if not ended:
                self._process.kill()
                relay.expire(None)
                relay.run()  # its last output
                if self.caught and self._code is None:  # it was asked to end, and did not
                    self._code = 128 + self.caught[0]
                if self.running and not self._panicked and self._code is None:
                    where = " ".join(self._command.argv[:3])
                    raise TimedOut("time is up", where=where, why=f"{self._command.timeout:g} s")
        return self._code

    def _comes_up(self) -> bool:
        """Return True if the guest does not run its command yet and may still do so."""
        before, self._used = self._used, _processor_time(self._process.pid)
        return not (self.running or self._panicked or self._code is not None) and before < self._used < _COMES_UP

    def _feed_stdin(self) -> None:
        """Pass on this process's stdin if the command is to read it. Otherwise it is left to whom it is for."""
        port = self._ports["in"]
        if not (self._command.stdin and _is_open(0)):
            port.shutdown(socket.SHUT_WR)
            return

        def feed(data: bytes) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                if data:
                    port.sendall(data)
                else:
                    port.shutdown(socket.SHUT_WR)

        self._relay.watch(0, feed, counts=False)

    def _pass_on(self, handle: int, data: bytes) -> None:
        write_all(handle, data)
        if self._code is not None:  # the reader may be slow
            self._relay.expire(_GOES_DOWN)

    def _told(self, line: bytes) -> None:
        if line == b"R":
            self.running = True
            self._relay.expire(self._command.timeout)
        elif line.startswith(b"X"):
            self._code = int(line[1:])
            self._relay.expire(_GOES_DOWN)

    def _said(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        self.console.append(text)
        if _PANIC in text and not self._panicked:
            self._panicked = True
            self._relay.expire(_GOES_DOWN)

    def _forward(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._tell_size()
                continue
            if not self.running or self.caught:  # the command has not begun, or was asked to end before
                self._code = 128 + number
                self._process.kill()
            self.caught.append(number)
            self._relay.expire(GRACE)
            self._tell(f"S{number}\n")

    def _tell_size(self) -> None:
        if self._command.tty:
            size = os.get_terminal_size(0)
            self._tell(f"W{size.lines} {size.columns}\n")

    def _tell(self, text: str) -> None:
        with suppress(OSError):
            self._ports["control"].sendall(text.encode())


def _inside(command: Command) -> Command:
    # BENCH_STATE is not passed on: the guest has its own state directory, which ends with it.
    environment = {name: value for name, value in command.env.items() if name != "BENCH_STATE"}
    environment |= {"BENCH_EVENTS_FD": str(EVENTS_FD), "BENCH_INPUT": image.INPUT}
    environment["HOME"] = command.env.get("HOME", "/root")
    environment["PATH"] = command.env.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    return replace(command, env=environment)


def _writable(path: str) -> dict[str, str]:
    """Return the share of the one directory that the command may write to, if there is one. Raises Usage."""
    if not path:
        return {}
    if not (os.path.isabs(path) and os.path.isdir(path)) or "\n" in path:
        raise Usage("BENCH_OUTPUT is no directory that a guest can write to", where=path, fix="give an absolute path")
    return {"output": path}


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True


def _processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    user, system = stat[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
