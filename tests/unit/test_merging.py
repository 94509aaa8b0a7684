"""Several compose files of `bench import` are merged as docker compose merges them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.imports import reading
from tests.unit.imported import Told, told

BASE = """\
services:
  web:
    image: web
    command: serve
    networks: [front]
    ports: ["8080:80", "${TLS:-443}:443"]
    expose: [81]
    deploy:
      replicas: 2
      placement: {constraints: [node.role == worker]}
  old: {image: old, networks: [front]}
networks:
  front:
    ipam: {config: [{subnet: 10.20.0.0/24}]}
"""
OVERRIDES = {
    "a number is replaced, and what is new is added": (
        "services: {web: {deploy: {replicas: 5}}, db: {networks: [front]}}",
        {"web": (5, ["80/tcp", "443/tcp", "81/tcp"]), "old": (1, []), "db": (1, [])},
        [],
    ),
    "ports and constraints are appended": (
        "services:\n  web:\n    ports: ['90', '53:53/udp']\n    expose: [82]\n"
        "    deploy: {placement: {constraints: [node.hostname == worker2]}}",
        {"web": (2, ["80/tcp", "443/tcp", "90/tcp", "53/udp", "81/tcp", "82/tcp"])},
        ["over.yml:3: published port 53"],
    ),
    "the same port in its long form is the same": (
        "services:\n  web:\n    ports: [{target: 80, published: '8080', mode: host}]",
        {"web": (2, ["80/tcp", "443/tcp", "81/tcp"])},
        ["over.yml:3: published port 8080"],
    ),
    "networks are a list or a mapping": (
        "services: {web: {networks: {back: {}}}}\nnetworks: {back: {}}",
        {"web": (2, ["80/tcp", "443/tcp", "81/tcp"])},
        ["base.yml:2: VIPs of web on back"],
    ),
    "only networks are told": (
        "networks:\n  front:\n    driver_opts: {com.docker.network.driver.mtu: 1400, encrypted: ''}",
        {"web": (2, ["80/tcp", "443/tcp", "81/tcp"])},
        ["over.yml:3: driver option encrypted"],
    ),
    "a reset removes, and an override replaces": (
        "services:\n  old: !reset null\n  web:\n    expose: !reset []\n    ports: !override ['90']\n",
        {"web": (2, ["90/tcp"])},
        [],
    ),
    "nothing overrides nothing, and other keys may be of any kind": (
        "services: {web: {ports: , command: [serve, now], environment: {A: 1}}}",
        {"web": (2, ["80/tcp", "443/tcp", "81/tcp"])},
        [],
    ),
    "a list over a mapping cannot be merged": (
        "services:\n  web:\n    deploy: [1]\n    ports: 80\n",
        {"web": (2, ["80/tcp", "443/tcp", "81/tcp"])},
        [
            "over.yml:3: services.web.deploy: it is a list, and a mapping in base.yml:8, which is kept",
            "over.yml:4: services.web.ports: it is a text, and a list in base.yml:6, which is kept",
        ],
    ),
    "the subnets of both files": (
        "networks: {front: {ipam: {config: [{subnet: 10.30.0.0/24}]}}}",
        {"web": (2, ["80/tcp", "443/tcp", "81/tcp"])},
        ["over.yml:1: subnet 10.30.0.0/24"],
    ),
}


@pytest.mark.parametrize("case", list(OVERRIDES))
def test_override_files_are_merged_as_docker_compose_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, services, notes = OVERRIDES[case]
    monkeypatch.chdir(tmp_path)
    Path("base.yml").write_text(BASE)
    Path("over.yml").write_text(text)
    found = Told(Path("base.yml"), 3, Path("over.yml"))
    made = {each.name: (len(each.tasks), each.ports) for each in found.scenario.services if each.name != "client"}
    assert {name: made[name] for name in services} == services
    assert ("old" in made) is ("reset" not in case)
    assert [each.name for each in found.scenario.networks][:1] == ["front"]
    assert found.scenario.networks[0].subnet == "10.20.0.0/24"
    told_alone = {str(note) for note in reading.imported(["base.yml"]).notes}
    new = [str(note) for note in reading.imported(["base.yml", "over.yml"]).notes if str(note) not in told_alone]
    assert [note[: len(wanted)] for note, wanted in zip(new, notes, strict=False)] == notes, new
    if case.startswith("ports"):
        assert {task.node for task in found.scenario.service("web").tasks} == {"worker2"}
    if "only networks" in case:
        assert found.scenario.networks[0].mtu == 1400


def test_a_reset_in_a_file_alone_removes_too(tmp_path: Path) -> None:
    found = told(tmp_path, "services: {web: {ports: !reset ['80']}, old: !reset {}, db: {}}")
    assert sorted(each.name for each in found.scenario.services) == ["db", "web"]
    assert found.scenario.service("web").ports == []


def test_three_files_are_merged_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.yml" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_text(f"services: {{web: {{deploy: {{replicas: {number + 2}}}}}, db: {{}}}}")
    assert len(Told(paths[0], 3, *paths[1:]).scenario.service("web").tasks) == 4
    assert len(Told(paths[2], 3, *paths[:2]).scenario.service("web").tasks) == 3


def test_mappings_that_aliases_multiply_are_merged_in_no_time(tmp_path: Path) -> None:
    """Each of thirty mappings has the one before it nine times: 9^30 fields if they were walked one by one."""
    lines = ["x0: &x0 {k: v}"]
    lines += [f"x{n}: &x{n} {{{', '.join(f'k{m}: *x{n - 1}' for m in range(9))}}}" for n in range(1, 30)]
    text = "\n".join([*lines, "services: {web: {labels: *x29}, db: {}}"])
    for name in ("a.yml", "b.yml"):
        (tmp_path / name).write_text(text)
    assert len(Told(tmp_path / "a.yml", 3, tmp_path / "b.yml").scenario.services) == 2


def test_what_aliases_repeat_under_another_key_is_merged_by_the_rules_of_that_key(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("services: {web: {labels: &a [front], networks: *a}, db: {networks: [front]}}")
    (tmp_path / "b.yml").write_text("services: {web: {labels: &b {back: {}}, networks: *b}}")
    found = Told(tmp_path / "a.yml", 3, tmp_path / "b.yml")
    assert found.scenario.service("web").network == "front"
