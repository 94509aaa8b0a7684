"""OVN as a platform: what its daemons have programmed is what balances, and it follows a change."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.program.command import bench

pytestmark = pytest.mark.swarm
_LOOK = r"""
import json, os, re, subprocess

def words(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

def backends():
    calls = "import socket\nfor _ in range(60): socket.create_connection(('10.0.0.2', 80), 5).close()"
    words("container", "my-busybox.1", "python3", "-c", calls)
    kept = words("ip", "netns", "exec", hosts["worker2"], "cat", "/proc/net/nf_conntrack")
    return sorted(set(re.findall(r"src=10\.0\.0\.7 dst=10\.0\.0\.2 .*? src=(\S+) dst=10\.0\.0\.7 ", kept)))

with open(os.environ["BENCH_LAB"]) as file:
    hosts = {each["name"]: each["netns"] for each in json.load(file)["nodes"]}
links = {}
for node, name in hosts.items():
    links[node] = [each["ifname"] for each in json.loads(words("ip", "-n", name, "-j", "link"))]
(own,) = json.loads(words("container", "my-busybox.1", "ip", "-j", "link", "show", "eth0"))
before = backends()
neighbour = words("container", "my-busybox.1", "ip", "neighbour", "show", "10.0.0.2").split()
words("service", "scale", "my-web", "4")
print(json.dumps({"links": links, "mtu": own["mtu"], "before": before, "after": backends(), "neighbour": neighbour}))
"""


def test_connections_are_balanced_by_the_flows_of_the_clients_node() -> None:
    """Its connection tracking tells which backend each was sent to. The network's router answers for the VIP."""
    asked = ("--dataplane", "ovn", "--scenario", "seed", "--kernel", "debian-6.12")
    done = bench("lab", *asked, "--", sys.executable, "-c", _LOOK, timeout=1200)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert set(told["links"]) == {"manager1", "worker1", "worker2"}
    for node, names in told["links"].items():
        assert {"br-int", "ovs-system", "genev_sys_6081"} <= {*names}, node
        assert not [each for each in names if each.startswith("vx")], node
    assert told["mtu"] == 1442
    assert told["before"] == ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
    assert len(told["after"]) == 4
    assert told["neighbour"][told["neighbour"].index("lladdr") + 1] == "02:42:0a:00:00:01"
