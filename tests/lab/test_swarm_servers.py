"""Where the servers of a swarm's tasks run, and what a connection to them costs.

With `+servers=namespace` a server is to the kernel what one of our lab is. So the lab's costs can be held against those
of a real swarm, and the difference to the other places is what a container adds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.documents import Result
from bench.report import peers_cost
from tests.program.command import bench

pytestmark = pytest.mark.swarm
SWARM, KERNEL = "swarm@26.1", ("--kernel", "debian-6.12")
LAB = ("ipvs-lb@iptables", "--scenario", "docker")
OWN = {"mnt", "pid", "uts", "ipc", "cgroup"}
"""The namespaces that a container has besides its network's."""
_LOOK = """
import json, os, subprocess

def words(name):
    with open(name) as file:
        return file.read()

def servers():
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            if words(f"/proc/{each}/cmdline").split("\\0")[1:2] == ["serve"]:
                differs = [kind for kind in ("net", "mnt", "pid", "uts", "ipc", "cgroup")
                           if os.readlink(f"/proc/{each}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")]
                filtered = words(f"/proc/{each}/status").partition("Seccomp:")[2].split()[0]
                cgroup = words(f"/proc/{each}/cgroup").strip()
                yield {"namespaces": differs, "filtered": filtered != "0", "cgroup": cgroup}
        except (FileNotFoundError, ProcessLookupError):
            pass

def change(*asked):
    subprocess.run(["service", *asked], check=True, stdout=subprocess.DEVNULL)
    return len(list(servers()))

found = list(servers())
counts = [change(*asked) for asked in
          (("scale", "my-web", "4"), ("crash", "my-web.1", "process"), ("crash", "my-web.3", "container"))]
print(json.dumps({"found": found, "own": words("/proc/self/cgroup").strip(), "counts": counts}))
"""


@pytest.mark.parametrize(
    ("plane", "namespaces", "confined", "filtered"),
    [
        ((SWARM,), {"net", *OWN}, True, True),
        ((f"{SWARM}+servers=cgroup",), {"net"}, True, False),
        ((f"{SWARM}+servers=namespace",), {"net"}, False, False),
        (LAB, {"net"}, False, False),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_a_server_runs_in_its_container_or_in_a_part_of_it(
    plane: tuple[str, ...], namespaces: set[str], confined: bool, filtered: bool
) -> None:
    """One starts with its task, and ends with that or with its container."""
    done = bench("lab", "--dataplane", *plane, *KERNEL, "--", sys.executable, "-c", _LOOK, timeout=1200)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert len(told["found"]) == 4
    for each in told["found"]:
        assert {*each["namespaces"]} == namespaces
        assert each["filtered"] == filtered
        assert (each["cgroup"] != told["own"]) == confined
    assert len({each["cgroup"] for each in told["found"]}) == (4 if confined else 1), "each container has its own"
    assert told["counts"] == [5, 4, 3]


def test_our_lab_costs_what_a_swarm_does_and_a_container_adds_to_that(tmp_path: Path) -> None:
    """docs/peers.md has these figures, of more rounds (results/peers)."""
    asked = {
        "cost-of-platforms": (SWARM,),
        "cost-outside-containers": (f"{SWARM}+servers=cgroup,{SWARM}+servers=namespace",),
        "cost-of-imitations": LAB,
    }
    for document, planes in asked.items():
        path = str(tmp_path / f"{document}.json")
        command = ("run", "--dataplane", *planes, *KERNEL, "--clock", "instructions", "--repeat", "1", "-o", path)
        done = bench(*command, timeout=3600)
        assert done.returncode == 0, done.stderr
    results = {each: msgspec.json.decode((tmp_path / f"{each}.json").read_bytes(), type=Result) for each in asked}
    told = peers_cost.ratios(results)
    assert told["lab"] == pytest.approx([1, 1], abs=0.02)
    assert min(*told["cgroup"], *told["container"]) > 1.02, "by how much they differ is less than single rounds do"
