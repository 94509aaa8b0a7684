"""Any plane file, and its expected differences, are read or refused with the path; so is any answer to a call."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplanes import catalog
from dataplanes.errors import Usage
from dataplanes.program import CallAnswer
from scenarios import expectations
from tests.unit.fuzz.strategies import HOSTILE_TEXTS, mutated, spoiled, toml

PLANE = {
    "name": "mine",
    "summary": "a plane",
    "placement": "lb",
    "command": ["./mine", "--quick"],
    "ports": "declared",
    "protocols": ["tcp", "udp"],
    "scheduler": "rr",
    "serve": True,
    "timeout": 5,
    "expected": "expected.toml",
    "needs": {"tools": {"nft": "nftables"}, "features": {"NF_TABLES": "nf_tables", "NET_NS": ""}},
}
DIFFERENCES = {
    "difference": [{"checks": ["reach.payload"], "reason": "because", "expected": "fail", "kernels": ["6."]}]
}
ANSWER = {
    "counters": [{"service": "web", "backend": "10.0.0.3", "connections": 1, "packets": 2, "bytes": 3}],
    "footprint": [{"kind": "nft elements", "objects": 1, "bytes": None}],
    "error": "no",
    "code": 4,
}
texts = st.sampled_from([toml(PLANE), toml(DIFFERENCES)])
planes = st.one_of(
    mutated(PLANE).map(toml), texts.flatmap(lambda data: spoiled(data)), st.binary(max_size=60), st.just(toml(PLANE))
)
differences = st.one_of(
    mutated(DIFFERENCES).map(toml), texts.flatmap(lambda data: spoiled(data)), st.just(toml(DIFFERENCES))
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planes")
    (made / "mine").write_text("#!/bin/sh\n")
    (made / "mine").chmod(0o755)
    return made


@given(plane=planes, expected=differences)
def test_a_plane_file_is_a_plane_or_is_refused(plane: bytes, expected: bytes, place: Path) -> None:
    (place / "any.toml").write_bytes(plane)
    (place / "expected.toml").write_bytes(expected)
    expectations._read.cache_clear()
    refused = ""
    try:
        (found,) = catalog.select(f"{place}/any.toml")
        catalog.requires(found)
        catalog.mechanism(found)
        expectations.demand_known([found])
        expectations.expected(found, "reach.payload", "6.1.0")
    except Usage as error:
        refused = str(error)
    expectations._read.cache_clear()
    assert not refused or str(place) in refused


@given(name=st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=20)), end=st.sampled_from(["", ".toml"]))
def test_a_name_with_a_placement_is_a_plane_or_is_refused(name: str, end: str) -> None:
    with suppress(Usage):
        catalog.select(f"lb:{name}{end}")


@given(answer=mutated(ANSWER))
def test_an_answer_is_read_or_refused(answer: object) -> None:
    with suppress(msgspec.ValidationError):
        for each in msgspec.convert(answer, CallAnswer).footprint:
            assert each.kind
            assert 0 <= each.objects <= 2**53
