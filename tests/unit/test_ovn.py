"""OVN as a platform: what its databases are told of services, and how its daemons are asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench.documents import TrialPlan
from bench.inside import measure
from dataplanes import catalog, platforms
from dataplanes.base import Footprint
from dataplanes.errors import BenchError, KernelRefused, NotApplicable, Usage
from dataplanes.model import Backend, Port, Service
from dataplanes.platforms import Version
from scenarios import topology
from scenarios.checks import visible
from scenarios.journal import Journal
from scenarios.ovn import daemons
from scenarios.ovn.balancers import Balancers, balancers
from scenarios.ovn.daemons import Central, OvnNode, OvnPrograms, asked
from scenarios.ovn.fabric import OvnFabric
from scenarios.ovn.testbed import Ovn
from tests.unit.listening import Listening

ANY = Service("web", "net", "10.0.0.2", (Backend("10.0.0.3"), Backend("10.0.0.4")))
DECLARED = msgspec.structs.replace(ANY, ports=(Port("tcp", 80), Port("udp", 53), Port("tcp", 443)))


@pytest.mark.parametrize(
    ("service", "told"),
    [
        (ANY, {"web-any": ("any", '{"10.0.0.2"="10.0.0.3,10.0.0.4"}')}),
        (
            DECLARED,
            {
                "web-tcp": (
                    "tcp",
                    '{"10.0.0.2:80"="10.0.0.3:80,10.0.0.4:80","10.0.0.2:443"="10.0.0.3:443,10.0.0.4:443"}',
                ),
                "web-udp": ("udp", '{"10.0.0.2:53"="10.0.0.3:53,10.0.0.4:53"}'),
            },
        ),
        (
            msgspec.structs.replace(ANY, backends=(Backend("10.0.0.3", 0), Backend("10.0.0.4"))),
            {"web-any": ("any", '{"10.0.0.2"="10.0.0.4"}')},
        ),
        (
            msgspec.structs.replace(ANY, backends=(Backend("10.0.0.3", 0),)),
            {"web-any": ("any", '{"10.0.0.2"=""}')},
        ),
    ],
)
def test_a_service_is_a_load_balancer_or_one_for_each_transport(
    service: Service, told: dict[str, tuple[str, str]]
) -> None:
    assert dict(balancers(service)) == told


class _Fabric:
    """A fabric that keeps what the databases are told."""

    def __init__(self) -> None:
        self.told: list[tuple[Sequence[str], ...]] = []
        self.synchronized = 0
        self.central = self

    def tell(self, *commands: Sequence[str]) -> str:
        self.told.append(commands)
        return ""

    def synchronize(self) -> None:
        self.synchronized += 1


def test_a_balancer_is_created_on_switch_and_router_and_then_changed_in_place() -> None:
    fabric = _Fabric()
    plane = Balancers(fabric, "ovn")  # type: ignore[arg-type]
    plane.apply([ANY])
    plane.apply([msgspec.structs.replace(ANY, backends=ANY.backends[:1])])
    plane.apply([msgspec.structs.replace(DECLARED, ports=DECLARED.ports[:1], backends=ANY.backends[:1])])
    plane.remove([ANY])
    plane.remove([ANY])
    row = "@net-web-0"
    assert fabric.told == [
        (
            (f"--id={row}", "create", "load_balancer", "name=web-any", 'vips={"10.0.0.2"="10.0.0.3,10.0.0.4"}'),
            ("add", "logical_switch", "net", "load_balancer", row),
            ("add", "logical_router", "router-of-net", "load_balancer", row),
        ),
        (("set", "load_balancer", "web-any", 'vips={"10.0.0.2"="10.0.0.3"}'),),
        (
            ("lb-del", "web-any"),
            (
                f"--id={row}",
                "create",
                "load_balancer",
                "name=web-tcp",
                'vips={"10.0.0.2:80"="10.0.0.3:80"}',
                "protocol=tcp",
            ),
            ("add", "logical_switch", "net", "load_balancer", row),
            ("add", "logical_router", "router-of-net", "load_balancer", row),
        ),
        (("lb-del", "web-tcp"),),
    ]
    assert fabric.synchronized == 4, "a change is in effect when it returns, and there is none where nothing is told"


def test_what_it_has_no_word_for_is_told_to_nobody() -> None:
    fabric = _Fabric()
    heavy = msgspec.structs.replace(ANY, backends=(Backend("10.0.0.3", 2),))
    with pytest.raises(NotApplicable, match="without weights"):
        Balancers(fabric, "ovn").apply([ANY, heavy])  # type: ignore[arg-type]
    assert not fabric.told


def test_a_scenario_with_weights_does_not_apply() -> None:
    scenario = topology.load("seed")
    scenario.services[0].tasks[0].weight = 2
    with Journal() as journal, pytest.raises(NotApplicable, match="without weights"):
        Ovn(scenario, Version(()), "23.03", journal=journal, server=lambda _: [])


def test_a_network_has_room_for_the_header_of_geneve() -> None:
    scenario = topology.load("matrix")
    with Journal() as journal:
        Ovn(scenario, Version(()), "23.03", journal=journal, server=lambda _: [])
    assert [each.mtu for each in scenario.networks] == [1442, 1442]


def test_what_is_not_to_be_had_is_told_before_anything_is_changed() -> None:
    with Journal() as journal:
        testbed = Ovn(topology.load("seed"), Version(()), "23.03", journal=journal, server=lambda _: [])
    lacking = [each for each in ("deaf", "unaware", "resync", "late", "apply", "reinstall") if not testbed.has(each)]
    assert lacking == ["deaf", "unaware", "resync"]
    assert all(each in Ovn.reasons for each in lacking)


class _Daemon(Listening):
    """A daemon that answers one command, in two parts."""

    def __init__(self, path: Path, answer: dict[str, Any] | None) -> None:
        self._answer = json.dumps(answer).encode() if answer else b""
        super().__init__(path)

    def serve(self, connection: socket.socket) -> None:
        self.asked = connection.recv(65536)
        for part in (self._answer[:10], self._answer[10:]):
            connection.sendall(part)


def test_a_daemon_is_asked_by_its_socket(tmp_path: Path) -> None:
    daemon = _Daemon(tmp_path / "s", {"id": 0, "error": None, "result": "flows: 3\n"})
    assert asked(str(tmp_path / "s"), "dpctl/show", "-s") == "flows: 3\n"
    assert json.loads(daemon.asked) == {"id": 0, "method": "dpctl/show", "params": ["-s"]}


def test_its_refusal_is_told_in_its_own_words(tmp_path: Path) -> None:
    _Daemon(tmp_path / "s", {"id": 0, "error": '"x" is not a valid command\n', "result": None})
    with pytest.raises(KernelRefused, match=r'"x" is not a valid command$'):
        asked(str(tmp_path / "s"), "x")


def test_a_daemon_that_ends_instead_is_an_error(tmp_path: Path) -> None:
    _Daemon(tmp_path / "s", None)
    with pytest.raises(BenchError, match="gives no answer"):
        asked(str(tmp_path / "s"), "x")


class _Central(Central):
    """Central databases that keep what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def tell(self, *commands: Sequence[str]) -> str:
        self.asked += [tuple(each) for each in commands]
        return "7\n"

    def _south(self, *words: str) -> str:
        self.asked.append(words)
        return ""


class _Node(OvnNode):
    """A node whose controller stands still or does not."""

    def __init__(self, held: bool) -> None:
        self.held = held
        self.waited = False

    def revalidated(self) -> None:
        self.waited = True


def test_a_change_is_in_effect_when_all_controllers_that_hear_of_it_have_it() -> None:
    central, nodes = _Central(), {"a": _Node(False), "b": _Node(False)}
    central.synchronize(nodes)
    assert central.asked == [("--wait=hv", "sync")]
    assert all(each.waited for each in nodes.values()), "and the kernel has no flow of before"
    central, nodes = _Central(), {"a": _Node(False), "b": _Node(True)}
    central.synchronize(nodes)
    assert central.asked == [
        ("--wait=sb", "sync"),
        ("get", "nb_global", ".", "nb_cfg"),
        ("wait-until", "chassis_private", "a", "nb_cfg>=7"),
    ]


def test_the_knob_of_servers_leaves_no_choice() -> None:
    (selection,) = catalog.select("ovn")
    assert platforms.servers(selection) == "namespace"
    assert not platforms.known()["ovn"].described()
    assert not catalog.in_turn(selection)
    with pytest.raises(Usage, match=r"ovn has no servers=container \(it has: namespace\)"):
        catalog.select("ovn+servers=container")


@pytest.mark.parametrize("version", ["23.03", "23.03-userspace"])
def test_a_version_that_the_suite_has_no_more_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs are asked for theirs before anything is started."""
    made_of = platforms.known()["ovn"].versions[version]
    monkeypatch.setattr(OvnFabric.__mro__[1], "build", lambda _: None)
    monkeypatch.setattr(OvnFabric, "address", lambda *_: "192.168.99.100")
    monkeypatch.setattr(OvnPrograms, "run", lambda *_: "ovn-nbctl 24.09.1\nOpen vSwitch Library 3.4.1\n")
    with (
        Journal() as journal,
        pytest.raises(BenchError, match=r"no OVN 23\.03 to be had.*ovn-central/bookworm is 24\.09\.1"),
    ):
        OvnFabric(topology.load("seed"), journal, made_of, version).build()


def test_a_footprint_tells_the_flows_of_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"dump-aggregate": "NXST_AGGREGATE reply (xid=0x4): packet_count=0 byte_count=0 flow_count=401\n"}
    shown = "system@ovs-system:\n  flows         : (current 13) (avg 9) (max 40) (limit 10000)\n"
    with Journal() as journal:
        testbed = Ovn(topology.load("seed"), Version(()), "23.03", journal=journal, server=lambda _: [])
        programs = OvnPrograms(Version(()), "/home", "worker1")
        monkeypatch.setattr(programs, "run", lambda *argv: told[argv[1]])
        node = OvnNode(programs, "netns", journal)
        monkeypatch.setattr(node, "_ask", lambda *_: shown)
        testbed.fabric.nodes = {"worker1": node}
        host = testbed.fabric.host_netns("worker1")
        found = Balancers(testbed.fabric, "ovn").footprint()
    assert found == [Footprint(host, "OpenFlow flows", 401), Footprint(host, "datapath flows", 13)]


def test_a_node_waits_until_its_switch_can_count_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A datapath that starts before has no thread for the first packets of flows."""
    slept: list[float] = []
    monkeypatch.setattr(daemons, "time", SimpleNamespace(monotonic=lambda: 4.0, sleep=slept.append))
    with Journal() as journal:
        programs = OvnPrograms(Version(()), "/home", "worker1")
        monkeypatch.setattr(programs, "run", lambda *_: "")
        node = OvnNode(programs, "netns", journal)
        monkeypatch.setattr(node, "_start", lambda *_: slept.append(-1.0))
        node.start("worker1", "192.168.99.101", "192.168.99.100", "system")
    assert slept == [-1.0, 6.0, -1.0], "the database, the wait, the switch"


def test_nothing_is_waited_for_while_everything_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a standstill another one changes nothing. A controller that is held is let go by its own block only."""
    with Journal() as journal:
        testbed = Ovn(topology.load("seed"), Version(()), "23.03", journal=journal, server=lambda _: [])
        fabric, signals = testbed.fabric, list[str]()
        for held in (False, True):
            node = _Node(held)
            monkeypatch.setattr(
                node, "signal", lambda number, *names: signals.append(f"{number.name} {' '.join(names)}")
            )
            fabric.nodes[f"held {held}"] = node
        fabric.central = _Central()
        fabric.central._running = {}
        monkeypatch.setattr(fabric.central, "signal", lambda *_: None)
        with testbed.at_rest():
            with testbed.at_rest():
                testbed.settled()
            testbed.settled()
        assert fabric.central.asked == []
        assert signals == [
            f"{what} {names}" for what in ("SIGSTOP", "SIGCONT") for names in ("controller switch", "switch")
        ]
        fabric.nodes.clear()
        testbed.settled()
        assert fabric.central.asked == [("--wait=hv", "sync")]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x12\xb5" + bytes(4) + b"\x08" + bytes(7), id="vxlan"),
        pytest.param(b"\x17\xc1" + bytes(4) + b"\x00" + bytes(7), id="geneve"),
        pytest.param(b"\x17\xc1" + bytes(4) + b"\x42" + bytes(7 + 8), id="geneve with an option of two words"),
        pytest.param(
            b"\x17\xc1" + bytes(4) + b"\x3f" + bytes(7 + 252), id="geneve with as many options as it can have"
        ),
    ],
)
def test_a_check_finds_the_frame_that_one_between_nodes_carries(header: bytes) -> None:
    assert visible._carried(bytes(36) + header + b"the frame") == b"the frame"


@pytest.mark.parametrize("length", [0, 14, 38, 42])
def test_a_frame_that_carries_none_is_no_error(length: int) -> None:
    """Such as a request by ARP, whose bytes may be anything at the place of a port."""
    assert visible._carried((b"\x17\xc1" * 21)[:length]) == b""


def test_a_command_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelRefused, match=r"cannot be run.*Argument list too long"):
        OvnPrograms(Version(()), str(tmp_path), "central").run("true", "x" * (1 << 20))


@pytest.mark.parametrize("workload", ["program", "gap"])
def test_what_its_databases_take_is_no_figure_of_a_plane(workload: str) -> None:
    """It is a lab, and yet it programs itself."""
    (selection,) = catalog.select("ovn")
    with Journal() as journal:
        testbed = Ovn(topology.load("seed"), Version(()), "23.03", journal=journal, server=lambda _: [])
        plan = TrialPlan("ovn", 1, False, 1, workload)
        with pytest.raises(NotApplicable, match="this testbed programs itself"):
            measure.measure(testbed, selection, plan, "instructions")
