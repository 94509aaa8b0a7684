"""A kernel booted in QEMU over this machine's own root file system, read-only, with one command to run.

It needs neither root nor KVM and creates no file: the initramfs is in memory, and the console and the command's streams
are sockets. QEMU ends with this process (owned.py), and init powers off when the sockets are closed. A guest that hangs
while it boots or ends is killed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

from msgspec.structs import replace

from bench.kernels import image, snapshot
from bench.kernels.base import EVENTS_FD, Command, Kernel, in_memory, parse_config
from bench.kernels.modules import Modules
from bench.kernels.owned import owned
from bench.kernels.relay import exit_code
from bench.kernels.session import PANIC, PORTS, STREAMS, Session
from bench.kernels.shares import Shared, serve, transport
from bench.kernels.snapshot import Saving
from bench.kernels.vmlinux import decompressed
from dataplanes.errors import BenchError, GuestPanic, Prerequisite, Usage
from dataplanes.kernel import btf, interrupt
from dataplanes.texts import clean
from scenarios import losses

QEMU = "qemu-system-x86_64"
_MEMORY = "2G"
_CPUS = 2
"""The processors of a guest under the wall clock. The instruction clock has one."""
_CONSOLE_TAIL = 15
_CMDLINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 nokaslr norandmaps random.trust_cpu=on tsc=reliable no_timer_check"
    # khugepaged collapses some process's pages every ten seconds: some 20 million instructions in one round and none in
    # the next.
    " transparent_hugepage=never"
    # Debian's kernels test every cipher while they boot, which takes 0.7 of 3 s.
    " cryptomgr.notests"
    # All namespaces share one table of neighbours, and 1,024 are too few for a thousand containers.
    f" sysctl.{losses.LIMIT}=65536 sysctl.net.ipv4.neigh.default.gc_thresh2=32768"
)
_UNMEASURED = " mitigations=off"
"""For a guest that is emulated and has no clock of its own, in which nothing is measured: 14 % less to emulate."""


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

    def types(self) -> bytes:
        image = self._vmlinuz.read_bytes()
        return btf.of_image(image) or btf.of_image(decompressed(image))

    def execute(self, command: Command, on_event: Callable[[bytes], None]) -> int:
        if shutil.which(QEMU) is None:
            raise Prerequisite(
                f"{QEMU} is not installed", why="the guest runs in it", fix="apt-get install qemu-system-x86"
            )
        command = _inside(command)
        shares = _writable(command.env.get("BENCH_OUTPUT", ""))
        saved = self._saved(tuple(shares))
        if saved and (saved.exists() or self._save(saved, tuple(shares))):
            with suppress(FileNotFoundError):
                code = self._run(command, shares, on_event, saved)
                if code is not None:
                    return code
                saved.unlink(missing_ok=True)  # QEMU cannot go on from it
        code = self._run(command, shares, on_event, None)
        assert code is not None
        return code

    def _run(
        self, command: Command, shares: Mapping[str, str], on_event: Callable[[bytes], None], saved: Path | None
    ) -> int | None:
        """Run the command. Return its exit code, or None if the guest was to go on from `saved` and did not come up."""
        awake = self.clock == "instructions"
        job = image.job(command, self._modules, shares, int(time.time()), awake=awake)
        with ExitStack() as stack:
            more = stack.enter_context(snapshot.restored(saved)) if saved else []
            process, ours = self._power_on(stack, shares, more)
            session = Session(command, process, ours, on_event, job, booted=bool(saved))
            code = session.run()
            if code is not None:
                return exit_code(code, session.caught)
            if saved and not session.running:
                return None
            raise self._down(process, session)

    def _power_on(
        self, stack: ExitStack, shares: Mapping[str, str], more: Sequence[str] = (), monitor: bool = False
    ) -> tuple[subprocess.Popen[bytes], list[socket.socket]]:
        """Start QEMU. Return it, and our ends of its streams: those in STREAMS, and then that of its monitor."""
        initrd = stack.enter_context(in_memory("initrd", image.base(self._modules)))
        shared = stack.enter_context(serve(self._modules, {"root": "/", **shares}, _MEMORY))
        pairs = [socket.socketpair() for _ in range(len(STREAMS) + monitor)]
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
        passed = (initrd, *(theirs.fileno() for _, theirs in pairs))
        argv = [*self._argv(shared, *passed[: 1 + len(STREAMS)]), *more]
        if monitor:
            argv += ["-chardev", f"socket,id=monitor,fd={passed[-1]}", "-mon", "chardev=monitor,mode=control"]
        process = stack.enter_context(
            owned(
                argv,
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
        return process, [ours for ours, _ in pairs]

    def _saved(self, tags: Sequence[str]) -> Path | None:
        """Return the path of the saved guest with these shares, whether it is there or not; None if there can be none.

        With KVM a boot takes less than a second.
        """
        if self.accelerated or transport(self._modules) != "9p":
            return None
        with serve(self._modules, dict.fromkeys(("root", *tags), "/"), _MEMORY) as shared:
            argv = self._argv(shared, *range(1 + len(STREAMS)))
        made = "\0".join((*argv, _version(), self.fingerprint()))
        cpus = "" if self.clock == "instructions" else str(self.cpus)
        family = "-".join((self.release, f"{self.clock}{cpus}", *tags))
        return snapshot.place(family, hashlib.sha256(made.encode()).hexdigest()[:12])

    def _save(self, path: Path, tags: Sequence[str]) -> bool:
        """Boot a guest and save it. Return True if that has worked."""
        with ExitStack() as stack:
            process, ours = self._power_on(stack, dict.fromkeys(tags, "/"), monitor=True)
            saving = Saving(Command((), {}, "/"), process, ours[:-1], lambda line: None, b"")
            saved = saving.save(ours[-1], path)
            for number in saving.caught:
                interrupt.strike(number)
            return saved

    def _argv(self, shared: Shared, initrd: int, console: int, *ports: int) -> list[str]:
        """Return the QEMU command line."""
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-global", "migration.store-global-state=off"]  # saved while it stands still, it is to go on at once
        argv += ["-no-reboot", "-M", "q35", "-m", _MEMORY, "-kernel", str(self._vmlinuz)]
        measured = self.accelerated or self.clock == "instructions"
        argv += ["-initrd", f"/proc/self/fd/{initrd}", "-append", _CMDLINE + ("" if measured else _UNMEASURED)]
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
        for name, port in zip(PORTS, ports, strict=True):
            argv += ["-chardev", f"socket,id={name},fd={port}"]
            argv += ["-device", f"virtserialport,chardev={name},name={name}"]
        argv += shared.argv
        return argv

    def _down(self, process: subprocess.Popen[bytes], session: Session) -> BenchError:
        """Return the error for a guest that has ended, or had to be ended, without an exit code."""
        _end(process)
        said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
        lines = session.console
        if not lines and said:
            return BenchError("QEMU failed", where=self.name, why=said.splitlines()[-1])
        for line in lines[-_CONSOLE_TAIL:]:
            print(clean(line), file=sys.stderr)
        what = "the guest's kernel went down" if session.running else "the guest did not come up"
        panic = next((line for line in lines if PANIC in line or "guest init:" in line), "no panic on its console")
        return GuestPanic(what, where=f"{self.name} ({self.release})", why=panic.strip())


@cache
def _version() -> str:
    """Return what QEMU says of itself: another version may not understand what this one has saved."""
    return subprocess.run((QEMU, "--version"), capture_output=True, text=True, check=False).stdout


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


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
