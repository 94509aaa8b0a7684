"""Ports and weights of services: as scenario files write them, and as a data plane is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplanes.errors import Usage
from dataplanes.model import Backend, Port, Protocol, Service
from scenarios import checks, ports, topology
from scenarios.roster import Roster

WORLD = """
nodes = ["a"]
networks = [{{ name = "net", subnet = "10.0.0.0/24" }}]
traffic = {{ client = "caller.1", service = "web" }}
[[services]]
name = "web"
network = "net"
{web}
[[services]]
name = "caller"
network = "net"
replicas = 1
"""


def scenario(tmp_path: Path, web: str) -> topology.Scenario:
    (tmp_path / "s.toml").write_text(WORLD.format(web=web))
    return topology.load(f"{tmp_path}/s.toml")


def test_a_port_is_written_as_users_write_it() -> None:
    wanted = (Port("tcp", 80), Port("tcp", 443), Port("udp", 53), Port("sctp", 9899))
    assert ports.parse(["80", "443/tcp", "53/udp", "9899/sctp"]) == wanted
    assert ports.parse(["53/tcp", "53/udp"]) == (Port("tcp", 53), Port("udp", 53))


@pytest.mark.parametrize("text", ["", "0", "65536", "http", "80/quic", "80/", "/tcp", "-1", " 80", "80-90", "٨٠"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a port"):
        ports.parse([text])


@pytest.mark.parametrize(
    ("web", "says"),
    [
        ('ports = ["http"]\nreplicas = 1', "services[0].ports: 'http' is not a port"),
        ('ports = ["80", "80/tcp"]\nreplicas = 1', "80/tcp is declared twice"),
        ('ports = ["443"]\nreplicas = 1', "80/tcp, which the traffic is sent to, is not among them"),
        ('ports = ["80/udp"]\nreplicas = 1', "80/tcp, which the traffic is sent to, is not among them"),
        (f"ports = {[str(n) for n in range(80, 145)]}\nreplicas = 1", "65 ports, more than 64"),
        ('tasks = [{ node = "a", weight = -1 }]', "services[0].tasks[0].weight: -1 is not between 0 and 256"),
        ('tasks = [{ node = "a", weight = 257 }]', "257 is not between 0 and 256"),
    ],
)
def test_a_scenario_that_declares_nonsense_is_refused(tmp_path: Path, web: str, says: str) -> None:
    with pytest.raises(Usage) as refused:
        scenario(tmp_path, web)
    assert says in str(refused.value)
    assert f"{tmp_path}/s.toml:" in str(refused.value)


def roster(world: topology.Scenario, usual: tuple[Port, ...] = ()) -> Roster:
    made = Roster(usual)
    made.specs |= {service.name: service for service in world.services}
    return made


def test_a_plane_is_told_ports_and_weights(tmp_path: Path) -> None:
    made = roster(
        scenario(
            tmp_path,
            'ports = ["80", "53/udp"]\ntasks = [{ name = "x", node = "a", weight = 3 }, { name = "y", node = "a" }]',
        )
    )
    web = made.service("web")
    assert web.ports == (Port("tcp", 80), Port("udp", 53))
    assert [backend.weight for backend in web.backends] == [3, 1]
    made.drained.add("x")
    assert [backend.weight for backend in made.service("web").backends] == [0, 1]


def test_a_service_without_declared_ports_has_every_port(tmp_path: Path) -> None:
    made = roster(scenario(tmp_path, "replicas = 1"))
    assert made.service("web").ports == ()
    told: list[Service] = []
    made.declare("web", Port("tcp", 9000), told.append)
    assert told == [], "it has it already"
    assert made.service("web").ports == ()
    assert made.service("web").backends == (Backend("10.0.0.3"),)


def test_where_ports_must_be_declared_the_usual_ones_are(tmp_path: Path) -> None:
    usual = (Port("tcp", 80), Port("udp", 80))
    made = roster(scenario(tmp_path, "replicas = 1"), usual)
    assert made.service("web").ports == usual
    told: list[Service] = []
    for _ in range(2):
        made.declare("web", Port("sctp", 9000), told.append)
    assert [each.ports for each in told] == [(*usual, Port("sctp", 9000))], "once"
    assert made.service("web").ports == (*usual, Port("sctp", 9000))
    assert made.service("caller").ports == usual
    made.forget("web")
    assert "web" not in made.specs


def test_a_check_of_any_port_is_not_applicable_to_declared_ones() -> None:
    each = checks.CHECKS["reach.any-port"]
    assert checks.skipped(each, "instructions") == ""
    assert checks.skipped(each, "instructions", any_port=False).startswith("not applicable")
    assert checks.skipped(checks.CHECKS["reach.same-node"], "instructions", any_port=False) == ""


def test_a_check_that_counts_turns_is_not_applicable_to_chance() -> None:
    each = checks.CHECKS["balance.under-change"]
    assert checks.skipped(each, "instructions") == ""
    assert checks.skipped(each, "instructions", in_turn=False).startswith("not applicable")
    assert checks.skipped(checks.CHECKS["balance.round-robin"], "instructions", in_turn=False) == ""


def test_a_check_of_a_transport_is_not_applicable_to_a_plane_that_does_not_serve_it() -> None:
    only_tcp: tuple[Protocol, ...] = ("tcp",)
    needing = {each.name: each for each in checks.CHECKS.values() if not each.skip and "udp" in each.protocols}
    assert {name for name in checks.CHECKS if "udp" in name} <= set(needing)
    for each in needing.values():
        assert checks.skipped(each, "instructions", protocols=only_tcp).startswith("not applicable: it needs udp")
    assert checks.skipped(checks.CHECKS["reach.payload"], "instructions", protocols=only_tcp) == ""
    assert checks.skipped(checks.CHECKS["reach.payload"], "instructions", protocols=()).startswith("not applicable")
