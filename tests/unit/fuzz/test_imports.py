"""Whatever a file holds, `bench import` makes a scenario of it that can be built, or refuses it with its line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.imports import reading, toml
from dataplanes.errors import Usage
from scenarios import topology
from tests.unit.fuzz.ending import end, timed
from tests.unit.fuzz.strategies import mutated, spoiled
from tests.unit.test_imports import COMPOSE, IPVSADM, KUBERNETES, NFT, STACK

_SECONDS = 1.0
TEXTS = [STACK, KUBERNETES, IPVSADM, *(text for text, _, _ in COMPOSE.values())]
RULESETS = [json.loads(path.read_text("utf-8")) for path in sorted(NFT.glob("*.json"))]
TREES = [yaml.safe_load(STACK), yaml.safe_load(KUBERNETES), *RULESETS]
LINES = st.lists(
    st.sampled_from([*IPVSADM.splitlines(), "-A", "-a -t", "-A -t [::1]:80", "-A -t :0 -p", "'"]), max_size=12
)
data = st.one_of(
    st.sampled_from(TREES).flatmap(mutated).map(lambda tree: json.dumps(tree).encode()),
    st.sampled_from(TEXTS).flatmap(lambda text: spoiled(text.encode())),
    LINES.map(lambda lines: "\n".join(lines).encode()),
    st.binary(max_size=60),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports") / "any.yml"


@given(data=data, nodes=st.sampled_from([1, 3, 100]))
def test_a_file_is_a_scenario_or_is_refused(data: bytes, nodes: int, path: Path) -> None:
    path.write_bytes(data)
    with timed() as took:
        try:
            found = reading.imported([str(path)], nodes)
        except Usage as error:
            assert str(path) in str(error)  # noqa: PT017
            return
    assert took() < _SECONDS
    made = topology.parse(toml.text(found.scenario, ""), "made.toml")
    assert all(note.where and note.what and note.why for note in found.notes)
    assert msgspec.to_builtins(topology.parse(toml.text(made, ""), "made.toml")) == msgspec.to_builtins(made)


@given(data=data)
def test_the_command_ends_well(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    end(["import", str(path), "-o", str(path.with_suffix(".toml"))])
