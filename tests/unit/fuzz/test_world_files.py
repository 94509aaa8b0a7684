"""Any world file is a world or is refused with the path. So is one whose namespaces do not exist."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.outside import adopt
from dataplanes.errors import NotApplicable, Usage
from scenarios import homes, roles, world_file
from scenarios.adopted import Adopted, Adoption
from tests.program.by_hand import described
from tests.unit.fuzz.strategies import mutated, spoiled, toml

WORLD = msgspec.toml.decode(described("no-such-", operated="made.json")) | {
    "port": 80,
    "servers": "theirs",
    "first_port": 2000,
    "scheduler": "random",
    "protocols": ["tcp"],
    "imitates": "nft-container",
    "resolver": "127.0.0.11",
}
WORLD["services"][0]["ports"] = ["80", "53/udp"]
WORLD["containers"][0] |= {"docker": "shell", "netns": ""}
WORLD["nodes"][0] |= {"engine": "/no/engine", "uplink": "eth1"}
worlds = st.one_of(mutated(WORLD).map(toml), spoiled(toml(WORLD)), st.binary(max_size=60), st.just(toml(WORLD)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worlds") / "any.toml"


@given(world=worlds)
def test_a_world_file_is_a_world_or_is_refused(world: bytes, path: Path) -> None:
    path.write_bytes(world)
    refused = ""
    try:
        found, fault = world_file.load(str(path))
        played = roles.give_roles(found, fault)
    except Usage as error:
        refused = str(error)
    assert not refused or str(path) in refused
    if refused:
        return
    engines = {each.name: homes.place("/no/engine") for each in found.nodes}
    adoption = adopt._adoption(found, None, played, {}, {}, engines, "/")
    again = msgspec.convert(msgspec.to_builtins(adoption), Adoption)
    testbed = Adopted(again, lambda task: [])
    assert all(each.backends for each in testbed.services())
    for service in ("my-web", "lone", "side-web"):
        try:
            assert testbed.service(service).vip
        except NotApplicable:
            assert service not in played.played_by
    with pytest.raises(Usage, match=r"does not tell of|there is no namespace|is no network namespace"):
        adopt._homes(found, {each.name: homes.place(each.engine) for each in found.nodes}, fault)
