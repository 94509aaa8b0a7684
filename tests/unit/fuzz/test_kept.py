"""A file that a run keeps for the next one may come from anybody.

It is used if it is whole and ours, or made again, or refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench import native
from bench.analysis.intervals import summarise
from bench.analysis.judge import warnings
from bench.cli import progress
from bench.documents import TrialPlan
from bench.documents.exploration import Exploration, Explored, Finding
from bench.kernels import apt, packages
from bench.outside import explore
from bench.outside.store import Store
from bench.prepare import objects
from bench.report import sequence
from dataplanes import ebpf_object
from dataplanes.errors import Usage
from scenarios.explore import operations as do
from scenarios.explore.course import SequenceStep
from tests.unit.fuzz import samples
from tests.unit.fuzz.strategies import mutated, spoiled

EVENTS = samples.trials(samples.result("connections", planes=2))
IDENTITY = ["a run"]
FIRST = json.dumps({"kind": "trials", "run": IDENTITY, "schema": 2}, separators=(",", ":")).encode()
GZIP = b"\x1f\x8b"
EARLIER = samples.trials(samples.earlier("instructions"))
OTHERS = [b'["another"]', FIRST.replace(b"a run", b"another"), FIRST.replace(b":2}", b":3}")]


def _file(events: list[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


lines = st.one_of(
    st.lists(st.sampled_from(EVENTS + EARLIER).flatmap(mutated), max_size=4).map(_file),
    st.just(_file(EVENTS)).flatmap(spoiled),
    st.binary(max_size=100),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the files."""
    return tmp_path_factory.mktemp("kept")


firsts = st.one_of(st.just(FIRST), st.sampled_from(OTHERS), st.just(FIRST).flatmap(spoiled), st.binary(max_size=20))


@example(first=GZIP, rest=b"")
@given(first=firsts, rest=lines)
def test_trials_are_gone_on_with_or_refused_at_their_line(first: bytes, rest: bytes, place: Path) -> None:
    path = place / "result.json.trials"
    path.write_bytes(first + b"\n" + rest)
    try:
        store = Store(path, IDENTITY)
    except Usage as error:
        assert error.where.startswith(f"{path}:" if first == FIRST else str(path))  # noqa: PT017
        assert first.startswith((FIRST, GZIP))  # a damaged archive is somebody's, too
        return
    assert bool(store.replaced) == (first.partition(b"\n")[0] != FIRST)
    store.close(discard=False)
    summarise(store.trials)
    if store.environment:
        warnings(store.trials, store.environment)


def test_a_line_that_is_not_a_trial_is_told_with_its_number(place: Path) -> None:
    path = place / "result.json.trials"
    spoilt = json.loads(json.dumps(EVENTS))
    spoilt[2]["data"]["round"] = "first"
    path.write_bytes(FIRST + b"\n" + _file(spoilt))
    with pytest.raises(Usage, match=r"trials:4: round: .*Expected `int`.*remove the file, and the run begins anew"):
        Store(path, IDENTITY)


@given(
    data=st.one_of(st.just(b'{"host, wall clock":1.5}').flatmap(spoiled), st.binary(max_size=50), st.just(b"[" * 5000))
)
def test_a_pace_of_anything_is_a_guess_or_none(data: bytes, place: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(place))
        (place / "paces.json").write_bytes(data)
        assert progress.announcement({(): 2.0}, "host, wall clock", 3.0).startswith("host, wall clock: 1 trials, about")


@given(data=st.one_of(st.just(b'"debian-6.1"').flatmap(spoiled), st.binary(max_size=50)))
def test_a_default_kernel_of_anything_is_one_or_is_asked_for(data: bytes, place: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packages, "_default_mark", lambda: place / "default")
        patch.setattr(apt, "ask", lambda *arguments: ["linux-image-6.12.1-amd64"])
        (place / "default").write_bytes(data)
        found = packages.installed_by_default()
        assert found
        assert found.startswith(("debian-", "ubuntu-"))


@given(data=st.one_of(st.just(b'{"programs":{},"maps":{}}').flatmap(spoiled), st.binary(max_size=50)))
def test_an_object_of_anything_is_whole_or_is_compiled(data: bytes, place: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ebpf_object, "cached", lambda name: place / "tc.json")
        (place / "tc.json").write_bytes(data)
        assert objects._missing(["tc"]) in ([], ["tc"])


def test_a_program_that_was_cut_short_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = native.binary("init").read_bytes()
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    made = native.binary("init")
    made.write_bytes(whole[:-100])
    native._made.cache_clear()
    assert native.binary("init").read_bytes() == whole


def test_plans_of_a_store_are_told_from_what_is_kept(place: Path) -> None:
    """A trial in the file that was not planned is not taken for a planned one."""
    path = place / "other.json.trials"
    path.write_bytes(FIRST + b"\n" + _file(EVENTS))
    store = Store(path, IDENTITY)
    plan = TrialPlan("ipvs-lb", 7, False, 10)
    assert store.left([plan]) == [plan]
    store.close(discard=True)


STEP = SequenceStep(do.Connect(1, "east", "web"), "east connects to web (flow 1).", "no answer", "refused", False)
FOUND = Exploration({}, {}, {}, [Explored("nft-lb", 3, 1)], [Finding("nft-lb", [STEP], 3, 3)])
EXPLORATION = json.loads(msgspec.json.encode(FOUND))


@given(
    data=st.one_of(
        mutated(EXPLORATION).map(lambda tree: json.dumps(tree).encode()),
        st.just(json.dumps(EXPLORATION).encode()).flatmap(spoiled),
        st.binary(max_size=100),
    )
)
def test_an_exploration_of_anything_is_one_or_is_refused_by_name(data: bytes, place: Path) -> None:
    path = place / "found.json"
    path.write_bytes(data)
    try:
        found = explore.exploration(str(path))
    except Usage as error:
        assert error.where.startswith(str(path))  # noqa: PT017
        return
    assert all(isinstance(each.sentence(), str) for finding in found.findings for each in finding.operations)
    assert "".join(sequence.lines(found))
