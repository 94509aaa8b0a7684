"""`bench trace` in a real swarm: its story is that of the plane that imitates it, and of no other."""

from __future__ import annotations

import json
import re

import pytest

from tests.lab.test_trace import KNOWN
from tests.program.command import bench

pytestmark = pytest.mark.swarm
SWARM = "swarm@26.1"


def test_the_rewrites_in_a_swarm_are_those_of_its_imitation() -> None:
    """A swarm chooses addresses itself, so each of them is held against the one that has its part."""
    asked = ("--dataplane", SWARM, "--scenario", "matrix", "--to", "lone", "--kernel", "debian-6.12", "--json")
    done = bench("trace", *asked, timeout=1200)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["stories"]
    steps = [
        (way["direction"], step["namespace"], step["device"], step["hook"], _changed(step))
        for direction in ("request", "reply")
        for way in [next(each for each in told["ways"] if each["direction"] == direction)]
        for step in way["steps"]
        if step["kind"] != "carried"
    ]
    known = [line.partition(": ") for line in KNOWN["ipvs-lb"]["remote"][:-1]]
    assert [" ".join(step[:4]) for step in steps] == [place for place, _, _ in known]
    parts: dict[str, str] = {}
    for (*_, seen), (_, _, expected) in zip(steps, known, strict=True):
        for one, other in zip(_ends(seen), _ends(expected), strict=True):
            assert parts.setdefault(one, other) == other, (seen, expected)
    ways = [way["end"]["namespace"] for way in told["ways"][:2]]
    assert ways == ["lone.1", "my-busybox.1"]
    assert told["flow"]["lost"] == 0


def _changed(step: dict[str, list[str]]) -> str:
    return ", ".join(f"{a} -> {b}" for a, b in zip(step["before"], step["after"], strict=True) if a != b)


def _ends(change: str) -> list[str]:
    return re.findall(r"[\d.]+:\d+", change)
