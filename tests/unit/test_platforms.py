"""Platforms: how one is selected, what it needs, what is expected of it, and how its engine is asked."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench.kernels.host import HostKernel
from bench.outside import run
from bench.outside.lanes import Here
from bench.prepare import preflight
from dataplanes import catalog, peers, platforms
from dataplanes.errors import NotApplicable, Usage
from dataplanes.model import Endpoint
from dataplanes.platforms import Version
from dataplanes.requirements import Condition, Unpacked
from dataplanes.selection import balances, title
from scenarios import checks, expectations, topology
from scenarios.checks import CHECKS
from scenarios.checks.world import World
from scenarios.container import Container
from scenarios.engine import Engine, Refused
from scenarios.journal import Journal
from scenarios.swarm import image, tasks, testbed
from scenarios.swarm.image import TaskServer
from scenarios.swarm.look import Balancer
from scenarios.swarm.tasks import Orchestrator
from scenarios.swarm.testbed import Swarm
from scenarios.topology import Filler, Network, ServiceSpec, Task
from tests.unit.conftest import Bench
from tests.unit.listening import Listening


def test_a_version_is_selected_by_its_name() -> None:
    (found,) = catalog.select("swarm@20.10")
    assert (found.name, found.dataplane, found.variant) == ("swarm@20.10", "swarm", "20.10")
    assert platforms.of(found) is platforms.known()["swarm"]
    assert balances(found.dataplane)
    (usual,) = catalog.select("swarm")
    assert usual.variant == platforms.known()["swarm"].default
    others = [*catalog.select("all"), *catalog.select("peers")]
    assert not [each for each in others if platforms.of(each)], "it must be named"


def test_a_platform_has_a_direct_path_of_its_own() -> None:
    (swarm,) = catalog.select("swarm")
    (found,) = catalog.select("direct@swarm")
    assert found == platforms.direct(swarm)
    assert (platforms.of(found), platforms.version(found)) == (platforms.of(swarm), "26.1")
    assert catalog.requires(found) == catalog.requires(swarm)
    assert not balances(found.dataplane)
    planned = [trial.dataplane for trial in run.plan([swarm], 1, 100, clock="instructions")]
    assert planned == ["direct@swarm", "swarm"], "the lab's is needed for planes in the lab only"
    dealt = run.Run("seed", [swarm], run.plan([swarm], 1, 100), HostKernel(), reason="", lanes=Here())._units()
    assert [[each.name for each in unit] for unit in dealt] == [["direct@swarm", "swarm"]], "in one guest"
    several = [swarm, *catalog.select("ipvs-lb")]
    assert {trial.dataplane for trial in run.plan(several, 1, 100)} == {"direct", "direct@swarm", "swarm", "ipvs-lb"}


def test_where_the_servers_run_is_a_knob_and_another_testbed() -> None:
    swarm, outside = catalog.select("swarm,swarm+servers=namespace")
    assert (outside.variant, platforms.servers(outside), platforms.servers(swarm)) == ("26.1", "namespace", "container")
    (reference,) = catalog.select("direct@swarm+servers=namespace")
    assert reference == platforms.direct(outside)
    assert platforms.testbed(reference) == platforms.testbed(outside) != platforms.testbed(swarm)
    planned = run.plan([swarm, outside], 1, 100)
    dealt = run.Run("seed", [swarm, outside], planned, HostKernel(), reason="", lanes=Here())._units()
    assert [[each.name for each in unit] for unit in dealt] == [
        ["direct@swarm", "swarm"],
        ["direct@swarm+servers=namespace", "swarm+servers=namespace"],
    ]


@pytest.mark.parametrize("name", ["swarm", "swarm@26.1", "swarm+servers=cgroup", "swarm@26.1+servers=cgroup"])
def test_its_version_is_a_part_of_its_title(name: str) -> None:
    """That of its direct path has it once, too."""
    (selection,) = catalog.select(name)
    titles = [title(each.name, each.dataplane, each.variant) for each in (selection, platforms.direct(selection))]
    assert titles == [wanted := name.replace("swarm@26.1", "swarm").replace("swarm", "swarm@26.1"), f"direct@{wanted}"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("direct@nft-lb", "direct has no variants"),
        ("swarm@19.03", "swarm has no version '19.03' (it has: 20.10, 26.1, 28.5, 28.5-nftables)"),
        ("swarm@20.10+x=1", "unknown knob 'x' (knobs, as knob=value: servers)"),
        ("swarm+servers=host", "bad knob 'servers=host' (servers=cgroup|container|namespace)"),
        ("swarn", "did you mean swarm?"),
    ],
)
def test_another_one_is_refused(text: str, why: str) -> None:
    with pytest.raises(Usage) as caught:
        catalog.select(text)
    assert why in str(caught.value)


@pytest.mark.parametrize("command", ["explore"])
def test_what_is_done_in_our_lab_only_is_refused(bench: Bench, command: str) -> None:
    refused = bench(command, "--dataplane", "nft-lb,swarm@26.1")
    assert refused.exit_code == 2
    assert f"not to be had for swarm@26.1: bench {command} needs a plane in our own lab" in refused.stderr


def test_its_name_is_taken(tmp_path: Path) -> None:
    assert catalog.is_taken("swarm")
    assert "swarm" not in peers.NAMES


@pytest.mark.parametrize("name", sorted(platforms.known()))
def test_each_version_has_packages_that_name_their_suites(name: str) -> None:
    platform = platforms.known()[name]
    assert platform.name == name
    assert platform.default in platform.versions
    for version, made_of in platform.versions.items():
        packages = made_of.packages
        assert "/" in packages[0], "so that every machine gets the same version"
        (selection,) = catalog.select(f"{name}@{version}")
        needs = catalog.requires(selection)
        assert [need.packages() for need in needs if isinstance(need, Unpacked)] == [packages]
        assert catalog.any_port(selection)
        assert not catalog.needs_cgroups(selection)


def test_it_runs_on_no_machine_that_has_other_things_to_do() -> None:
    (selection,) = catalog.select("swarm@26.1")
    (own,) = [need for need in catalog.requires(selection) if isinstance(need, Condition)]
    answer = preflight.availability(own, HostKernel())
    assert not answer.ok
    assert answer.fix == "use --kernel guest"


def test_what_it_imitates_is_expected_of_it() -> None:
    (selection,) = catalog.select("swarm@28.5")
    imitated = catalog.imitated(selection)
    assert imitated
    assert imitated.name == "ipvs-lb@iptables"
    own = {check for each in expectations.about(selection) for check in each.checks}
    for check in CHECKS.keys() - own:
        assert expectations.expected(selection, check, "6.12") == expectations.expected(imitated, check, "6.12")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"networks": [Network("a", "10.0.0.0/24"), Network("b", "10.0.0.128/25")]}, "networks whose subnets overlap"),
        ({"filler": Filler(5)}, "filler services"),
        ({"idlers": [Task("idle.1", "worker1")]}, "containers without a service"),
        ({"services": [ServiceSpec("a", "n", tasks=[Task("a.1", "worker1", weight=2)])]}, "weights"),
        ({"services": [ServiceSpec("a", "n", tasks=[Task("a.1", "worker1", remapped=True)])]}, "a user namespace"),
    ],
)
def test_a_scenario_that_a_swarm_has_no_words_for_does_not_apply(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    scenario = msgspec.structs.replace(topology.load("seed"), **change)
    with Journal() as journal, pytest.raises(NotApplicable, match=told):
        Swarm(scenario, Version(()), "26.1", journal=journal, server=TaskServer(tmp_path, "udp", lambda _: []))


def test_the_daemons_run_for_some_seconds_between_two_standstills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In them each node contradicts that it is dead. Within a standstill another one changes nothing."""
    now, slept = [100.0], list[float]()
    monkeypatch.setattr(testbed, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append))
    with Journal() as journal:
        swarm = Swarm(
            topology.load("seed"),
            Version(()),
            "26.1",
            journal=journal,
            server=TaskServer(tmp_path, "udp", lambda _: []),
        )
        node = _Still()
        swarm._nodes = {"worker1": node}  # type: ignore[dict-item]
        with swarm.at_rest():
            with swarm.at_rest():
                now[0] += 3600
            assert node.calls == ["freeze"]
        assert node.calls == ["freeze", "thaw"]
        now[0] += 2
        with swarm.at_rest():
            pass
        now[0] += testbed._CONTRADICTS
        with swarm.at_rest():
            pass
    assert slept == [0, testbed._CONTRADICTS - 2, 0]


class _Still:
    """A node that stands still or does not."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @property
    def frozen(self) -> bool:
        return self.calls[-1:] == ["freeze"]

    def freeze(self) -> None:
        self.calls.append("freeze")

    def thaw(self) -> None:
        self.calls.append("thaw")


def _not_applicable() -> list[str]:
    (selection,) = catalog.select("swarm@26.1")
    skipped = [each for each in expectations.about(selection) if each.expected == "skip"]
    return sorted(check for each in skipped for check in each.checks if CHECKS[check].scenario == "matrix")


@pytest.mark.parametrize("name", _not_applicable())
def test_no_container_is_made_for_what_does_not_apply(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service of two tasks takes a swarm ten seconds of a processor."""
    made: list[str] = []
    scenario = topology.load("matrix")
    with Journal() as journal:
        swarm = Swarm(scenario, Version(()), "26.1", journal=journal, server=TaskServer(tmp_path, "udp", lambda _: []))
        swarm._specs = {each.name: each for each in scenario.services}
        for each in scenario.tasks():
            end = Endpoint(each.name, each.network, each.node, each.name, "eth0", each.address, "", "", "", None)
            swarm.containers[each.name] = Container(each, each.name)
            swarm.containers[each.name].endpoints.append(end)
        monkeypatch.setattr(swarm, "_create", lambda spec: made.append(spec.name))
        monkeypatch.setattr(swarm, "namespaces", lambda: [("host", "worker1", "worker1"), ("lb", "worker1", "lb")])
        (cell,) = checks.observe([CHECKS[name]], World(swarm), "swarm@26.1")
    assert (cell.outcome, made) == ("skip", []), cell.detail


@pytest.mark.parametrize("name", sorted(platforms.known()))
def test_what_differs_is_about_checks_and_has_a_reason_and_a_source(name: str) -> None:
    (selection,) = catalog.select(name)
    expectations.demand_known([selection])
    imitated = catalog.imitated(selection)
    assert imitated
    for each in expectations.about(selection):
        assert each.reason
        assert each.reference
        assert not each.reason.endswith(".")
        for check in each.checks:
            assert expectations.expected(imitated, check, "6.12").expected != each.expected, f"{check} does not differ"


def test_the_image_has_a_shell_and_the_server(tmp_path: Path) -> None:
    (tmp_path / "server").write_bytes(b"\x7fELF")
    with tarfile.open(fileobj=io.BytesIO(image.archive(tmp_path / "server"))) as tar:
        found = {each.name: each for each in tar}
        assert found["bin/server"].mode == 0o755
        assert found["bin/sh"].linkname == "busybox"
        assert {"proc", "sys", "dev", "etc"} <= found.keys(), "what a runtime mounts on"


def test_a_task_runs_its_server_unless_that_is_outside() -> None:
    (inside, without) = (
        image.command(80, TaskServer(Path("server"), "udp-as-asked", lambda _: [], where))[-1]
        for where in ("container", "namespace")
    )
    served = "/bin/server serve --id $SLOT --tcp 80 --udp-as-asked 80 & "
    assert inside.replace(served, "") == without
    assert inside != without
    subprocess.run(("sh", "-n", "-c", without), check=True)


@pytest.mark.parametrize(
    ("wanted", "lacking"),
    [
        ({"10.0.0.3": 1, "10.0.0.4": 0}, ""),
        ({"10.0.0.3": 1, "10.0.0.4": 1}, "lb has [{'10.0.0.3': 1, '10.0.0.4': 0}] for 10.0.0.2"),
        ({"10.0.0.3": 1}, "lb has [{'10.0.0.3': 1, '10.0.0.4': 0}] for 10.0.0.2"),
        ({"10.0.0.9": 1}, "lb has [] for 10.0.0.2"),
        ({}, "lb still has 10.0.0.2"),
    ],
)
def test_a_change_is_in_effect_when_a_balancer_has_it(wanted: dict[str, int], lacking: str) -> None:
    balancer = Balancer("lb", "10.0.0.1", {"10.0.0.1", "10.0.0.2"}, [{"10.0.0.3": 1, "10.0.0.4": 0}, {"10.0.0.7": 1}])
    found = balancer.lacks("10.0.0.2", wanted)
    assert found.startswith(lacking)
    assert bool(found) == bool(lacking)
    assert balancer.lacks("10.0.0.8", {"10.0.0.7": 1}) == "lb has no address 10.0.0.8"
    assert not balancer.lacks("10.0.0.8", {}), "a service that was removed"


class _Daemon(Listening):
    """A daemon that gives one answer, and keeps what it was asked."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._answer = answer
        super().__init__(path)

    def serve(self, connection: socket.socket) -> None:
        while part := connection.recv(65536):
            self.asked += part
            head, end, body = self.asked.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            if end and len(body) >= (int(length[1]) if length else 0):
                break
        connection.sendall(self._answer)


def _answered(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_an_engine_is_asked_by_its_socket(tmp_path: Path) -> None:
    daemon = _Daemon(tmp_path / "s", _answered("200 OK", b'[{"ID": "x"}]'))
    assert Engine("worker1", str(tmp_path / "s")).get("/tasks", service=["my web"]) == [{"ID": "x"}]
    daemon.join()
    line = daemon.asked.partition(b"\r\n")[0].decode()
    assert line == "GET /tasks?filters=%7B%22service%22%3A%20%5B%22my%20web%22%5D%7D HTTP/1.1"


def test_its_refusal_is_told_in_its_own_words(tmp_path: Path) -> None:
    told = json.dumps({"message": "update out of sequence"}).encode()
    daemon = _Daemon(tmp_path / "s", _answered("500 Internal Server Error", told))
    with pytest.raises(Refused, match="update out of sequence"):
        Engine("worker1", str(tmp_path / "s")).change("/nodes/1", 3, {"Availability": "pause"})
    daemon.join()
    assert daemon.asked.startswith(b"POST /nodes/1/update?version=3 ")
    assert msgspec.json.decode(daemon.asked.partition(b"\r\n\r\n")[2]) == {"Availability": "pause"}


class _Manager:
    """A manager that tells of a service's tasks, each time the next list."""

    def __init__(self, *told: list[dict[str, Any]]) -> None:
        self._told = list(told)

    def get(self, path: str, **filters: list[str]) -> list[dict[str, Any]]:
        assert (path, filters) == ("/tasks", {"service": ["web"]})
        return self._told.pop(0)


def _task(name: str, wanted: str, state: str) -> dict[str, Any]:
    container = {"ContainerID": f"{name}-container", "PID": 7}
    status = {"State": state, "ContainerStatus": container}
    return {"ID": name, "Slot": 1, "NodeID": "n", "DesiredState": wanted, "Status": status, "NetworksAttachments": []}


def test_a_task_that_is_to_be_removed_is_no_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LOOK", 0.0)
    old, failed = _task("old", "remove", "running"), _task("failed", "shutdown", "failed")
    told = [old, failed], [old, _task("new", "running", "preparing")], [_task("new", "running", "running")]
    orchestrator = Orchestrator(_Manager(*told))  # type: ignore[arg-type]
    orchestrator._names = {"n": "worker1"}
    assert orchestrator._await_running("web", []).container == "new-container"


def test_a_new_task_is_not_asked_for_before_the_last_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LOOK", 0.0)
    manager = _Manager([_task("old", "remove", "running")], [], [_task("never", "running", "running")])
    Orchestrator(manager).await_none("web")  # type: ignore[arg-type]
    assert len(manager._told) == 1, "it has looked twice"
