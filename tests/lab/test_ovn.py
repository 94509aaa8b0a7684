"""OVN as a platform: what its daemons have programmed is what balances, and it follows a change."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.program.command import BENCH, bench

pytestmark = pytest.mark.swarm
_RUN = """
with open(os.environ["BENCH_LAB"]) as file:
    hosts = {each["name"]: each["netns"] for each in json.load(file)["nodes"]}
RUN = hosts["worker1"].partition("-")[0]
"""
_LOOK = (
    "import json, os, re, subprocess\n"
    + _RUN
    + r'''

CALLS = """
import socket
for _ in range(60):
    with socket.create_connection(('10.0.0.2', 80), 5) as made:
        made.sendall(b"w")
        print(made.recv(256).split()[3].decode())
"""

def words(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

def backends():
    told = set(words("container", "my-busybox.1", "python3", "-c", CALLS).split())
    kept = words("ip", "netns", "exec", hosts["worker2"], "cat", "/proc/net/nf_conntrack")
    found = re.findall(r"src=10\.0\.0\.7 dst=10\.0\.0\.2 .*? src=(\S+) dst=10\.0\.0\.7 ", kept)
    return sorted(told), sorted(set(found))

links = {}
for node, name in hosts.items():
    links[node] = [each["ifname"] for each in json.loads(words("ip", "-n", name, "-j", "link"))]
(own,) = json.loads(words("container", "my-busybox.1", "ip", "-j", "link", "show", "eth0"))
before = backends()
neighbour = words("container", "my-busybox.1", "ip", "neighbour", "show", "10.0.0.2").split()
words("service", "scale", "my-web", "4")
reached, kernel = zip(before, backends())
told = {"run": RUN, "links": links, "mtu": own["mtu"], "neighbour": neighbour}
print(json.dumps({**told, "reached": reached, "kernel": kernel}))
'''
)


_STAY = "import json, os, time\n" + _RUN + "\nprint(RUN, flush=True)\ntime.sleep(1000)"


def _told(plane: str, kernel: str) -> dict[str, Any]:
    asked = ("--dataplane", plane, "--scenario", "seed", "--kernel", kernel)
    done = bench("lab", *asked, "--", sys.executable, "-c", _LOOK, timeout=1200)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert {*told["links"]} == {"manager1", "worker1", "worker2"}
    assert told["mtu"] == 1442
    assert told["neighbour"][told["neighbour"].index("lladdr") + 1] == "02:42:0a:00:00:01"
    return told


def test_connections_are_balanced_by_the_flows_of_the_clients_node() -> None:
    """Its connection tracking tells which backend each was sent to. The network's router answers for the VIP."""
    told = _told("ovn", "debian-6.12")
    for node, names in told["links"].items():
        assert {"br-int", "ovs-system", "genev_sys_6081"} <= {*names}, node
        assert not [each for each in names if each.startswith("vx")], node
    assert told["kernel"] == [["10.0.0.3", "10.0.0.4", "10.0.0.5"], told["reached"][1]]
    assert [len(each) for each in told["reached"]] == [3, 4]


def test_switches_balance_and_encapsulate_themselves_on_a_kernel_without_a_datapath() -> None:
    """The machine's own kernel tracks no connection of theirs, and has nothing of theirs afterwards."""
    links = socket.if_nameindex()
    told = _told("ovn@23.03-userspace", "host")
    for node, names in told["links"].items():
        assert {"br-int", "br-phy", "ovs-netdev"} <= {*names}, node
        assert not [each for each in names if each.startswith(("vx", "genev", "ovs-system"))], node
    assert told["kernel"] == [[], []]
    assert told["reached"][0] == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
    assert len(told["reached"][1]) == 4
    assert not left(told["run"])
    assert socket.if_nameindex() == links


def test_its_switches_end_with_a_run_that_is_killed() -> None:
    """Their bridges are taps, which end with them."""
    links = socket.if_nameindex()
    argv = (*BENCH, "lab", "--dataplane", "ovn@23.03-userspace", "--scenario", "seed", "--kernel", "host")
    with subprocess.Popen(
        (*argv, "--", sys.executable, "-c", _STAY), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        assert started.stdout
        run = started.stdout.readline().strip()
        assert {"ovs-vswitchd", "ovn-controller", f"{run}-worker1"} <= left(run)
        os.killpg(started.pid, signal.SIGKILL)
    assert bench("clean").returncode == 0
    assert not left(run)
    assert socket.if_nameindex() == links


def left(run: str) -> set[str]:
    """Return a run's namespaces and programs."""
    found = {name for name in os.listdir("/run/netns") if name.startswith(run)}
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            argv = each.read_text("utf-8", "replace")
            if f"/{run}/" in argv:
                found.add(os.path.basename(argv.split("\0")[0]))
    return found
