"""A node of a swarm: containerd and dockerd in namespaces of their own, whose containers are found from outside."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dataplanes import packages
from dataplanes.errors import BenchError
from dataplanes.kernel import netns, pids, process
from dataplanes.platforms import Version
from scenarios.engine import Engine, Refused
from scenarios.journal import Journal

_SCRIPT = os.path.join(os.path.dirname(__file__), "node.sh")
_IPTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
_INHERIT, _FROM_CURRENT = Path("/proc/sys/net/core/devconf_inherit_init_net"), "3"
NAME_SERVER = "127.0.0.1"
"""The node's own name server, which an engine asks for the names that no service has (docker's embedded DNS)."""
_GOGC = "400"
"""How far a daemon's memory may grow before it looks for garbage (package runtime of Go): none does so at its start.

dockerd 20.10 programs namespaces by running itself again: 89 times until three nodes have eight containers, which is
62 % of all that is executed meanwhile. Later versions do so once for each container.
"""
_STOPPED = "T"  # proc_pid_status(5), State
_UP, _LOOK = 600.0, 0.25
"""Seconds that a daemon may take to answer, and between looks. In an emulated guest it takes some 10."""


@contextmanager
def inheriting() -> Iterator[None]:
    """Let new network namespaces have the settings of the one that they are made in, for the block.

    A daemon sets ip_forward on its machine, and the namespaces that it makes have it from there. Here a daemon is in a
    namespace itself, and those that it makes would have the settings of the guest's first one, without ip_forward
    (Documentation/admin-guide/sysctl/net.rst). Nothing else runs in a guest, so this may be changed there.
    """
    before = _INHERIT.read_text("ascii")
    _INHERIT.write_text(_FROM_CURRENT, "ascii")
    try:
        yield
    finally:
        _INHERIT.write_text(before, "ascii")


class SwarmNode:
    """A node. Its host namespace exists already."""

    def __init__(self, name: str, host_netns: str, address: str, journal: Journal) -> None:
        self.name = name
        self.address = address
        self._netns = host_netns
        self._journal = journal
        self._home = journal.scratch(name)
        self.engine = Engine(name, f"{self._home}/docker.sock")
        self._process: subprocess.Popen[bytes] | None = None
        self._shims: list[int] = []  # those that stand still with the daemons
        self.frozen = False  # its daemons stand still

    def start(self, wanted: Version) -> None:
        """Start the daemons of a version."""
        os.makedirs(self._home, mode=0o711)
        environ = {
            **os.environ,
            **packages.environment(wanted.packages, os.environ),
            "NODE": self.name,
            "HOME_DIR": self._home,
        }
        environ |= {"NAME_SERVER": NAME_SERVER, "GOGC": _GOGC, **wanted.environ}
        environ["PATH"] = f"{_legacy(self._home)}:{environ['PATH']}"
        argv = ("unshare", "--uts", "--mount", "--propagation", "private", "sh", _SCRIPT)
        # When the first process of a PID namespace ends, all others do: here the daemons and all containers.
        with process.pid_namespace(), netns.inside(self._netns):
            self._process = subprocess.Popen(
                argv, env=environ, stdin=subprocess.DEVNULL, preexec_fn=_prepare, start_new_session=True
            )
        self._journal.process(self._process.pid)

    def await_up(self) -> Mapping[str, str]:
        """Wait until the engine answers. Return what it tells of its version. Raises BenchError with its last words."""
        assert self._process
        deadline = time.monotonic() + _UP
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError, http.client.HTTPException, Refused):
                version: dict[str, str] = self.engine.get("/version")
                return version
            time.sleep(_LOOK)
        raise BenchError("the engine did not start", where=self.name, why=self.last_words() or "it says nothing")

    def last_words(self) -> str:
        """Return the end of what each of the daemons has logged."""
        found = []
        for name in ("containerd", "dockerd"):
            with suppress(OSError), open(f"{self._home}/{name}.log", encoding="utf-8", errors="replace") as file:
                if text := file.read().strip():
                    found.append(f"{name}: {'; '.join(text.splitlines()[-2:])[-400:]}")
        return "; ".join(found)

    def stop(self) -> None:
        """End the daemons, and with them their PID namespace and every container."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the daemons without ending them: they program nothing and tell nobody anything.

        containerd's shims are processes of their own. Each collects its garbage twice a minute, which is millions of
        instructions (containerd, runtime/v2/shim/shim.go, setRuntime).
        """
        self._signal(signal.SIGSTOP)
        self._shims = [each for each in self._others() if pids.state(each) != _STOPPED]
        for each in self._shims:
            os.kill(each, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let the daemons go on."""
        for each in self._shims:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
        self._signal(signal.SIGCONT)
        self.frozen = False

    def _signal(self, number: int) -> None:
        assert self._process
        os.killpg(self._process.pid, number)

    def _others(self) -> Iterator[int]:
        """Yield the processes of the node that are neither a container's nor in the daemons' group."""
        assert self._process
        ours = pids.namespace(self._process.pid)
        for each in pids.numbers():
            with suppress(OSError):
                if pids.namespace(each) == ours and os.getpgid(each) != self._process.pid:
                    yield each

    # -- by path and number ----------------------------------------------------------------------------------------

    def sandboxes(self) -> list[str]:
        """Return the names of the namespaces that the engine has made: 1-NETWORK, lb_NETWORK, and the containers'."""
        with suppress(FileNotFoundError):
            return os.listdir(self._sandbox(""))
        return []

    def adopt(self, sandbox: str, name: str) -> None:
        """Give one of the engine's namespaces a name of ours, under which `ip netns` finds it, too."""
        if not netns.exists(name):
            self._journal.record("netns", name)
            netns.adopt(self._sandbox(sandbox), name)

    def _sandbox(self, name: str) -> str:
        assert self._process
        return f"/proc/{self._process.pid}/root{self._home}/exec/netns/{name}"

    def processes(self, first: int) -> list[int]:
        """Return a container's processes, its first one at the beginning, of which the engine tells its number."""
        assert self._process
        found = pids.find(first, pids.namespace(self._process.pid))
        with suppress(OSError), open(f"/proc/{found}/task/{found}/children", encoding="ascii") as file:
            return [found, *map(int, file.read().split())]
        return []


def _prepare() -> None:
    """Let the child end with this process. Its parent is outside of its PID namespace, and has no number there."""
    process.die_with_parent()
    process.take_signals()


def _legacy(home: str) -> str:
    """Return a directory in which iptables is the legacy one, by which the lab's own planes are programmed, too."""
    path = f"{home}/iptables"
    os.mkdir(path)
    for name in _IPTABLES:
        os.symlink("/usr/sbin/xtables-legacy-multi", f"{path}/{name}")
    return path
