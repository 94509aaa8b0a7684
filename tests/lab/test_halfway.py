"""A change the kernel refuses half-way leaves the old state and a clear error."""

from __future__ import annotations

import subprocess

import pytest
from msgspec.structs import replace

from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns
from dataplanes.model import Backend, Service
from scenarios.lab import Lab
from tests.lab.conftest import VIP, View, running

IPVS = ["ipvs-container", "ipvs-lb", "ipvs-overlay", "ipvs-host"]
COMMANDS = ("ip -o address", "ip route", "iptables-legacy-save -t nat", "iptables-legacy-save -t mangle", "ipvsadm -Sn")


def facts(lab: Lab) -> dict[str, str]:
    """Addresses, routes, rules and IPVS of every namespace, as text; without what traffic leaves."""
    found = {}
    for _, _, name in lab.namespaces():
        with netns.inside(name):
            for command in COMMANDS:
                text = subprocess.run(command.split(), capture_output=True, text=True, check=False).stdout
                lines = [line.partition(" [")[0] for line in text.splitlines() if not line.startswith("#")]
                found[f"{name}: {command}"] = "\n".join(lines)
    return found


def refused(lab: Lab, changes: list[Service], match: str) -> None:
    assert lab.plane
    before = facts(lab)
    with pytest.raises(KernelRefused, match=match) as caught:
        lab.plane.apply(changes)
    assert caught.value.where
    assert facts(lab) == before
    assert View(lab).spread(6) == {"1": 2, "2": 2, "3": 2}


@pytest.mark.parametrize("dataplane", IPVS)
def test_a_backend_ipvs_refuses_takes_the_whole_change_back(dataplane: str) -> None:
    with running(dataplane) as lab:
        web = lab.service("my-web")
        good = Service("good", "my-network", "10.0.0.100", web.backends)
        nowhere = (*web.backends, Backend("224.0.0.1"))  # ip_vs_add_dest wants a unicast address
        refused(lab, [good, replace(web, backends=nowhere)], "Invalid argument")
        refused(lab, [good, Service("bad", "my-network", "10.0.0.101", nowhere)], "Invalid argument")
        with pytest.raises(OSError, match=r"No route to host|timed out|refused"):
            View(lab).connect("10.0.0.100")


@pytest.mark.parametrize("dataplane", ["ebpf-socket", "ebpf-tc"])
@pytest.mark.parametrize("knob", ["services=4", "backends=8"])
def test_a_full_map_takes_the_whole_change_back(dataplane: str, knob: str) -> None:
    with running(f"{dataplane}@{knob}") as lab:
        web = lab.service("my-web")
        many = [Service(f"s{n}", "my-network", f"10.0.0.{100 + n}", web.backends) for n in range(8)]
        refused(lab, [replace(web, backends=web.backends[:1]), *many], f"map.*@{knob.partition('=')[0]}=N")
        with pytest.raises(OSError, match=r"No route to host|timed out"):
            View(lab).connect("10.0.0.100")
        assert lab.plane
        lab.plane.apply([replace(web, backends=web.backends[:1])])
        assert View(lab).spread(2, VIP) == {"1": 2}
