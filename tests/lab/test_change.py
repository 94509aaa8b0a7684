"""Services change while the lab runs, and nothing is left when it ends."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dataplanes import classifiers
from dataplanes.errors import BenchError
from dataplanes.kernel import iptables, netns
from dataplanes.kernel.ipvs import Ipvs
from dataplanes.kernel.rtnl import Rtnl
from scenarios.checks.backends import reached
from scenarios.document import document
from scenarios.journal import Journal
from scenarios.topology import ServiceSpec, Task
from tests.lab.conftest import CLIENT, VIP, View, running
from tests.lab.test_seed import AT_RANDOM, SERVING


@pytest.mark.parametrize("dataplane", [*SERVING, *AT_RANDOM])
def test_scaling_takes_effect_both_ways(dataplane: str) -> None:
    with running(dataplane) as lab:
        view = View(lab)
        lab.scale("my-web", 5)
        assert set(reached([*"12345"], lambda: view.who()[0])) == {*"12345"}
        assert len(view.resolve("tasks.my-web")[1]) == 5
        lab.scale("my-web", 2)
        assert set(reached([*"12"], lambda: view.who()[0])) == {*"12"}
        assert sorted(view.resolve("tasks.my-web")[1]) == ["10.0.0.3", "10.0.0.4"]
        lab.remove_task("my-web.1")
        assert view.spread(4) == {"2": 4}


@pytest.mark.planes("nft-host")
def test_a_lab_waits_until_its_links_carry_packets() -> None:
    """The kernel activates a link some time after its other end, and loses packets that come before."""
    with running("nft-host") as lab:
        (endpoint,) = lab.containers[CLIENT].endpoints
        with Rtnl(endpoint.overlay_netns) as bridge, Rtnl(endpoint.netns) as container:
            assert bridge.carries(endpoint.bridge_port)
            container.send([container.link_set(endpoint.interface, up=False)])
            while bridge.carries(endpoint.bridge_port):
                pass
            container.send([container.link_set(endpoint.interface, up=True)])
            lab.fabric._rising |= dict.fromkeys(
                [(endpoint.overlay_netns, endpoint.bridge_port), (endpoint.netns, "x9")]
            )
            lab.fabric.await_links()
            assert bridge.carries(endpoint.bridge_port)


@pytest.mark.planes("nft-host")
def test_both_ends_of_each_link_of_a_new_container_and_their_bridges_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: set[tuple[str, str]] = set()

    def carries(self: Rtnl, interface: str) -> bool:
        asked.add((self.netns.partition("-")[2], interface))
        return True

    with running("nft-host") as lab:
        monkeypatch.setattr(Rtnl, "carries", carries)
        lab.create_service(ServiceSpec("late", "my-network", tasks=[Task("late.1", "manager1")]))
        (endpoint,) = lab.containers["late.1"].endpoints
    overlay = "manager1.my-network"
    assert {("late.1", "eth0"), (overlay, endpoint.bridge_port), (overlay, "br0")} <= asked
    assert {("late.1", "eth1"), ("manager1", "docker_gwbridge")} <= asked
    assert any(name == "manager1" and interface.startswith("gw") for name, interface in asked)


@pytest.mark.parametrize("dataplane", ["ipvs-overlay", "nft-overlay"])
def test_a_vip_on_the_bridge_keeps_its_mac_whatever_port_comes(dataplane: str) -> None:
    with running(dataplane) as lab:
        view = View(lab)
        assert view.who()
        (endpoint,) = lab.containers[CLIENT].endpoints
        with Rtnl(endpoint.overlay_netns) as rtnl:  # as if a task with the lowest MAC had been added
            rtnl.send([rtnl.link_set(endpoint.bridge_port, address="02:00:00:00:00:01")])
        assert view.who()


@pytest.mark.parametrize("dataplane", [*SERVING, *AT_RANDOM])
def test_a_new_container_gets_every_service(dataplane: str) -> None:
    with running(dataplane) as lab:
        lab.create_service(ServiceSpec("late", "my-network", tasks=[Task("late.1", "manager1")]))
        assert set(reached([*"123"], lambda: View(lab, "late.1").who()[0])) == {*"123"}
        assert View(lab).resolve("late")[1] == [lab.service("late").vip]
        assert View(lab).who(lab.service("late").vip)[1:4:2]


def test_a_removed_service_can_be_made_again() -> None:
    with running("nft-lb") as lab:
        for _ in range(2):
            lab.create_service(ServiceSpec("again", "my-network", tasks=[Task("again.1", "worker1")]))
            (endpoint,) = lab.containers["again.1"].endpoints
            assert View(lab).who(lab.service("again").vip)[3] == endpoint.address
            lab.remove_service("again")


def test_a_removed_service_is_gone_from_rules_and_names() -> None:
    with running("ipvs-container") as lab:
        lab.remove_service("my-web")
        name = lab.containers[CLIENT].netns
        ipvs = Ipvs(name)
        assert [service.key for service in ipvs.services()] == [0x102]
        ipvs.close()
        assert not [rule for rule in iptables.rules(name, "mangle") if VIP in rule]
        assert View(lab).resolve("my-web") == ("NXDOMAIN", [])
        with pytest.raises(OSError, match=r"No route to host|timed out"):
            View(lab).connect()


def test_drain_stops_new_connections_and_keeps_the_established() -> None:
    with running("ipvs-lb") as lab:
        view = View(lab)
        held = [view.connect() for _ in range(3)]
        lab.drain("my-web.1")
        assert view.spread(6) == {"2": 3, "3": 3}
        for handle in held:
            with handle:
                handle.sendall(b"r")
                assert handle.recv(1) in (b"\1", b"\2", b"\3")


def test_a_crashed_backend_stays_listed_and_fails_its_share() -> None:
    with running("ipvs-container") as lab:
        lab.stop_server("my-web.2")
        outcomes = []
        for _ in range(9):
            try:
                outcomes.append(View(lab).who()[0])
            except ConnectionRefusedError:
                outcomes.append("refused")
        assert sorted(outcomes) == ["1"] * 3 + ["3"] * 3 + ["refused"] * 3


@pytest.mark.parametrize("dataplane", [*SERVING, *AT_RANDOM, "ipvs-lb-dsr", "direct"])
def test_close_takes_the_plane_away_and_leaves_the_lab(dataplane: str) -> None:
    with running("direct") as plain, running(dataplane) as lab:
        assert lab.plane
        lab.plane.close()
        shape = [(kind, node) for kind, node, _ in lab.namespaces()]
        assert shape == [(kind, node) for kind, node, _ in plain.namespaces()]
        for _, _, name in lab.namespaces():
            rules = [*iptables.rules(name, "mangle"), *iptables.rules(name, "nat")]
            assert not [rule for rule in rules if "ipvs" in rule or "MARK" in rule or "KUBE" in rule]


@pytest.mark.parametrize("variant", ["1.12.0", "1.12.6", "1.13", "17.09", "1.13+conn_reuse_mode=1"])
def test_the_variants_of_docker(variant: str) -> None:
    with running(f"ipvs-container@{variant}") as lab:
        assert View(lab).spread(6) == {"1": 2, "2": 2, "3": 2}
        name = lab.containers["my-web.1"].netns
        interface = "lo" if variant.startswith("17.09") else "eth0"
        with netns.inside(name):
            shown = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout
        assert [line.split()[1] for line in shown.splitlines() if f"{VIP}/32" in line] == [interface]
        nat = iptables.rules(name, "nat")
        assert any("icmp" in rule for rule in nat) == variant.startswith(("1.13", "17.09"))
        assert any("ipvs" in rule for rule in nat) == (variant != "1.12.0")


def test_two_labs_at_once_do_not_meet() -> None:
    with running("ipvs-container") as one, running("ipvs-lb") as two:
        assert View(one).spread(3) == View(two).spread(3) == {"1": 1, "2": 1, "3": 1}


def test_nothing_is_left_of_a_lab() -> None:
    def state() -> tuple[list[str], list[str], str]:
        links = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
        names = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
        return sorted(names), sorted(os.listdir("/etc/netns")) if os.path.isdir("/etc/netns") else [], links

    before = state()
    with running("ipvs-overlay"):
        assert state() != before
    assert state() == before
    with Journal() as journal:
        assert journal.run


@pytest.mark.parametrize("end", ["remove_task", "crash"])
def test_nothing_keeps_the_namespace_of_a_container_that_is_gone(end: str) -> None:
    """The kernel removes a namespace, and with it the container's links, when the last socket in it is closed."""
    with running("direct") as lab, Rtnl(lab.fabric.host_netns("worker2")) as rtnl:
        before = len(list(rtnl.links()))
        getattr(lab, end)("my-web.1")
        deadline = time.monotonic() + 10
        while len(list(rtnl.links())) == before:
            assert time.monotonic() < deadline, "the container's link to its node is still there"
        assert len(list(rtnl.links())) == before - 1


def test_a_flush_passes_over_an_interface_that_goes_after_it_was_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel removes a crashed container's link to its node a little later than the container."""
    links = Rtnl.links
    with running("direct") as lab:
        host = lab.fabric.host_netns("worker2")

        def list_and_lose(rtnl: Rtnl) -> list[Any]:
            listed = list(links(rtnl))
            lab.crash("my-web.1")
            deadline = time.monotonic() + 10
            while len(list(links(rtnl))) == len(listed):
                assert time.monotonic() < deadline, "the container's link to its node is still there"
            return listed

        monkeypatch.setattr(Rtnl, "links", list_and_lose)
        assert classifiers.detach_all(host) == []


@pytest.mark.parametrize("dataplane", ["nft-lb"])
def test_the_lab_document_has_all_that_is_there(dataplane: str) -> None:
    """A service without tasks, and the namespace of a network on a node whose last container has gone."""
    with running(dataplane) as lab:
        (network,) = document(lab).networks
        assert "manager1" not in network.overlay_netns
        lab.create_service(ServiceSpec("more", "my-network", tasks=[Task("more.1", "manager1")]))
        lab.scale("more", 0)
        found = document(lab)
        assert [each.tasks for each in found.services if each.name == "more"] == [[]]
        there = {name for kind, _, name in lab.namespaces() if kind == "overlay"}
        assert set(found.networks[0].overlay_netns.values()) == there
        assert "manager1" in found.networks[0].overlay_netns


SMALL = """
nodes = ["one", "two"]
networks = [{ name = "net", subnet = "10.7.0.0/28" }]
traffic = { client = "shell.1", service = "shop" }

[[services]]
name = "shop"
network = "net"
tasks = [{ name = "shop.a", node = "one" }, { name = "shop.b", node = "two" }]

[[services]]
name = "shell"
network = "net"
tasks = [{ node = "one" }]
"""


def test_a_service_that_cannot_have_so_many_tasks_stays_as_it_was(tmp_path: Path) -> None:
    """Containers that were created before the addresses ran out are removed. Names of tasks need not be numbers."""
    (tmp_path / "small.toml").write_text(SMALL)
    with running("nft-container", str(tmp_path / "small.toml")) as lab:
        containers, service = sorted(lab.containers), lab.service("shop")
        with pytest.raises(BenchError, match="no free address"):
            lab.scale("shop", 20)
        assert (sorted(lab.containers), lab.service("shop")) == (containers, service)
        lab.scale("shop", 4)
        assert set(lab.containers) == {*containers, "shop.1", "shop.2"}
        asked = View(lab, "shell.1").spread(8, lab.service("shop").vip)
        assert sorted(asked.values()) == [2, 2, 2, 2]
