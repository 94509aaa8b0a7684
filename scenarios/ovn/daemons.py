"""OVN's daemons: Open vSwitch and a controller on every node, and the databases of the whole network on one of them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from dataplanes import packages
from dataplanes.errors import BenchError, KernelRefused, Prerequisite, TimedOut
from dataplanes.kernel import netns, process
from dataplanes.platforms import Version
from scenarios.journal import Journal

BRIDGE = "br-int"
"""The bridge that a controller programs (ovn-architecture(7))."""
_SOUTHBOUND = 6642
"""The port at which the controllers ask for what concerns them (ovn-sb(5))."""
_UP, _LOOK = 120.0, 0.05
"""Seconds that a daemon may take to answer or a change to be in effect, and between looks."""
_IN_TIME = f"--timeout={int(_UP)}"
_COUNTS_CPUS = 10.0
"""Seconds after the boot until Open vSwitch knows how many processors there are. A datapath that starts before has no
thread for packets that it knows no flow for, and loses them (lib/ovs-thread.c, count_cpu_cores)."""
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class OvnPrograms:
    """The programs of a version, which were unpacked, and the directory of a node's sockets and databases."""

    def __init__(self, wanted: Version, home: str, where: str) -> None:
        self.home, self.where = home, where
        self._environ = {**os.environ, **packages.environment(wanted.packages, os.environ), **wanted.environ}
        self._root = self._environ.get("PLANE_PACKAGES", "")
        self._environ |= dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVN_RUNDIR", "OVN_LOGDIR"), home)
        self._environ["OVS_PKGDATADIR"] = f"{self._root}/usr/share/openvswitch"

    def path(self, relative: str) -> str:
        """Return the path of a file of the packages."""
        return f"{self._root}/usr/{relative}"

    def run(self, *argv: str) -> str:
        """Run a program to its end, and return what it says."""
        try:
            done = subprocess.run(argv, env=self._environ, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise Prerequisite(f"{argv[0]} is not to be had", where=self.where) from error
        except OSError as error:  # as for thousands of services at once, whose arguments are too long
            raise KernelRefused(f"{argv[0]} cannot be run", where=self.where, why=error.strerror or "") from error
        if done.returncode == -signal.SIGALRM:  # what --timeout does
            raise TimedOut("it takes too long", where=self.where, why=" ".join(argv[:4]))
        if done.returncode:
            raise KernelRefused(f"{argv[0]} failed", where=self.where, why="; ".join(done.stderr.split("\n")[:3]))
        return done.stdout

    def start(self, name: str, argv: Sequence[str], namespace: str, journal: Journal) -> subprocess.Popen[bytes]:
        """Start a daemon in a namespace. It ends with this process."""
        with netns.inside(namespace), open(f"{self.home}/{name}.log", "ab") as log:
            started = subprocess.Popen(
                argv,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=process.tied(),
                start_new_session=True,
            )
        journal.process(started.pid)
        return started

    def last_words(self, name: str) -> str:
        """Return the end of what a daemon has logged."""
        with suppress(OSError), open(f"{self.home}/{name}.log", encoding="utf-8", errors="replace") as file:
            return "; ".join(file.read().strip().splitlines()[-2:])[-400:]
        return ""


class Daemons:
    """Some daemons of a node, which can stand still."""

    def __init__(self, programs: OvnPrograms, host_netns: str, journal: Journal) -> None:
        self._programs = programs
        self._netns = host_netns
        self._journal = journal
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def _database(self, name: str, schema: str, *remotes: str) -> None:
        """Start the server of a new database, which listens on NAME.sock and on further remotes."""
        home = self._programs.home
        self._programs.run("ovsdb-tool", "create", f"{home}/{name}.db", self._programs.path(schema))
        listen = [f"--remote={each}" for each in (f"punix:{home}/{name}.sock", *remotes)]
        self._start(name, ["ovsdb-server", f"{home}/{name}.db", *listen])

    def _start(self, name: str, argv: Sequence[str]) -> None:
        """Start a daemon, and wait until it can be asked."""
        started = self._running[name] = self._programs.start(name, argv, self._netns, self._journal)
        deadline = time.monotonic() + _UP
        while not os.path.exists(self._control(name)):
            if started.poll() is not None or time.monotonic() > deadline:
                why = self._programs.last_words(name) or "it says nothing"
                raise BenchError(f"{name} did not start", where=self._programs.where, why=why)
            time.sleep(_LOOK)

    def _control(self, name: str) -> str:
        """Return the path of a daemon's socket for commands, where it is by default (ovs-appctl(8), --target)."""
        started = self._running[name]
        assert isinstance(started.args, list)
        return f"{self._programs.home}/{os.path.basename(started.args[0])}.{started.pid}.ctl"

    def _ask(self, name: str, method: str, *words: str) -> str:
        """Have a daemon carry out a command, as ovs-appctl(8) does, and return what it says."""
        return asked(self._control(name), method, *words)

    def stop(self) -> None:
        """End the daemons."""
        for each in reversed(list(self._running.values())):
            each.kill()
            each.wait()
        self._running.clear()

    def signal(self, number: int, *names: str) -> None:
        """Send a signal to some of the daemons."""
        for name in names:
            self._running[name].send_signal(number)


def asked(path: str, method: str, *words: str) -> str:
    """Carry out a command of a daemon by its socket: JSON-RPC without an end of line (ovs-appctl(8), unixctl)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_UP)
        connection.connect(path)
        connection.sendall(json.dumps({"id": 0, "method": method, "params": words}).encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
            with suppress(ValueError):
                told = json.loads(answer)
                if told["error"]:
                    raise KernelRefused(f"{method} failed", where=path, why=str(told["error"]).strip())
                return str(told["result"])
    raise BenchError("a daemon gives no answer", where=path, why=method)


class OvnNode(Daemons):
    """Open vSwitch with its controller, on one node."""

    _OF_CONTROL = ("controller", "switch")
    held = False
    """The controller stands still: the node goes on with what it knows."""

    def start(self, name: str, address: str, central: str, datapath: str) -> None:
        """Start the daemons but for the controller, which is to ask the central ones."""
        home = self._programs.home
        self._database("switch", "share/openvswitch/vswitch.ovsschema")
        told = {
            "system-id": name,
            "ovn-remote": f"tcp:{central}:{_SOUTHBOUND}",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": address,
            # A database that stands still is no reason to connect anew.
            "ovn-remote-probe-interval": "0",
            "ovn-openflow-probe-interval": "0",
        }
        settings = [f"external_ids:{key}={value}" for key, value in told.items()]
        time.sleep(max(0.0, _COUNTS_CPUS - time.monotonic()))
        self._configure("--no-wait", "init")
        self._configure("--no-wait", "set", "open_vswitch", ".", *settings)
        program = self._programs.path("lib/openvswitch-switch/ovs-vswitchd")
        self._start("vswitchd", [program, f"unix:{home}/switch.sock"])
        self.add_bridge(BRIDGE, datapath, "fail_mode=secure")

    def add_bridge(self, name: str, datapath: str, *settings: str) -> None:
        """Create a bridge."""
        self._configure("add-br", name, "--", "set", "bridge", name, f"datapath_type={datapath}", *settings)

    def control(self) -> None:
        """Start the controller."""
        self._start("controller", ["ovn-controller", f"unix:{self._programs.home}/switch.sock"])

    def restart(self) -> None:
        """Start the controller anew, as an update of it does: the node's flows stay meanwhile (ovn-controller(8))."""
        with suppress(BenchError):  # it may end before it has answered
            self._ask("controller", "exit", "--restart")
        self._running.pop("controller").wait()
        self.control()

    def _configure(self, *words: str) -> None:
        self._programs.run("ovs-vsctl", f"--db=unix:{self._programs.home}/switch.sock", _IN_TIME, *words)

    def add_port(self, interface: str, port: str = "", *, bridge: str = BRIDGE) -> None:
        """Let an interface of the node be a port of a bridge, and a logical port if that is named."""
        logical = ("--", "set", "interface", interface, f"external_ids:iface-id={port}") if port else ()
        self._configure("add-port", bridge, interface, *logical)

    def remove_port(self, interface: str) -> None:
        """Undo `add_port`."""
        self._configure("--if-exists", "del-port", BRIDGE, interface)

    def revalidated(self) -> None:
        """Wait until what the kernel has cached is what the bridge's flows say."""
        self._ask("vswitchd", "revalidator/wait")

    def know(self, bridge: str, address: str, mac: str) -> None:
        """Let the switch know the MAC of another node, to which it may send by a tunnel."""
        self._ask("vswitchd", "tnl/neigh/set", bridge, address, mac)

    def tracked(self) -> list[str]:
        """Return the connection entries of the datapath."""
        return self._ask("vswitchd", "dpctl/dump-conntrack").splitlines()

    def flows(self) -> tuple[int, int]:
        """Return the number of the bridge's OpenFlow flows, and of those that the datapath has cached."""
        bridge = self._programs.run("ovs-ofctl", "dump-aggregate", f"unix:{self._programs.home}/{BRIDGE}.mgmt")
        found = re.search(r"flow_count=(\d+)", bridge)
        cached = re.findall(r"flows +: \(current (\d+)\)", self._ask("vswitchd", "upcall/show"))
        return int(found[1]) if found else 0, sum(map(int, cached))

    def hold(self) -> None:
        """Stop the controller without ending it."""
        self.signal(signal.SIGSTOP, "controller")
        self.held = True

    def release(self) -> None:
        """Let the controller go on."""
        self.signal(signal.SIGCONT, "controller")
        self.held = False

    def freeze(self, number: int) -> None:
        """Send a signal to what is no part of the data path."""
        self.signal(number, *(each for each in self._OF_CONTROL if not (self.held and each == "controller")))


class Central(Daemons):
    """The databases of what is wanted (northbound) and of how it is done (southbound), and the daemon between them."""

    def start(self, address: str) -> None:
        """Start the daemons. The controllers find them at an address."""
        home = self._programs.home
        self._database("nb", "share/ovn/ovn-nb.ovsschema")
        self._database("sb", "share/ovn/ovn-sb.ovsschema", "db:OVN_Southbound,SB_Global,connections")
        self._south(
            "set-connection", f"ptcp:{_SOUTHBOUND}:{address}", "--", "set", "connection", ".", "inactivity_probe=0"
        )
        databases = [f"--ovnnb-db=unix:{home}/nb.sock", f"--ovnsb-db=unix:{home}/sb.sock"]
        self._start("northd", ["ovn-northd", *databases])

    def version(self) -> str:
        """Return the version of the programs."""
        found = _VERSION.search(self._programs.run("ovn-nbctl", "--version"))
        return found[0] if found else ""

    def tell(self, *commands: Sequence[str]) -> str:
        """Have commands of ovn-nbctl(8) carried out in one transaction."""
        words = [word for each in commands for word in ("--", *each)][1:]
        return self._programs.run("ovn-nbctl", f"--db=unix:{self._programs.home}/nb.sock", _IN_TIME, *words)

    def _south(self, *words: str) -> str:
        return self._programs.run("ovn-sbctl", f"--db=unix:{self._programs.home}/sb.sock", _IN_TIME, *words)

    def await_bound(self, port: str) -> None:
        """Wait until a controller has claimed a logical port and programmed it."""
        self.tell(("wait-until", "logical_switch_port", port, "up=true"))

    def synchronize(self, nodes: Mapping[str, OvnNode]) -> None:
        """Wait until the controllers of these nodes, and the kernel, have all that was told (ovn-nb(5), nb_cfg)."""
        if any(each.held for each in nodes.values()):
            self.tell(("--wait=sb", "sync"))
            number = self.tell(("get", "nb_global", ".", "nb_cfg")).strip()
            for name, node in nodes.items():
                if not node.held:
                    self._south("wait-until", "chassis_private", name, f"nb_cfg>={number}")
        else:
            self.tell(("--wait=hv", "sync"))
        for node in nodes.values():
            node.revalidated()

    def freeze(self, number: int) -> None:
        """Send a signal to all of them: none is a part of the data path."""
        self.signal(number, *self._running)
