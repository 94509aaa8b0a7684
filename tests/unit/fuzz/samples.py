"""Small valid input to start from: published documents, cut down, those of version 0.1, and the trials of a run."""

from __future__ import annotations

import json
from typing import Any

from bench import api
from bench.documents import reading
from scenarios import topology
from tests.conftest import ROOT

PLANES = ("direct", "ipvs-container", "nft-overlay", "ipvs-lb")


def result(name: str, planes: int = 3, rounds: int = 3, points: int = 2) -> dict[str, Any]:
    """A published result with a few planes, rounds and points, as it is written today."""
    found = _today(name)
    kept = PLANES[:planes]
    seen = list(dict.fromkeys(json.dumps([t["workload"], t.get("axes")]) for t in found["trials"]))[:points]

    def small(each: dict[str, Any]) -> bool:
        return each["dataplane"] in kept and json.dumps([each["workload"], each.get("axes")]) in seen

    found["trials"] = [each for each in found["trials"] if small(each) and each["round"] <= rounds]
    for trial in found["trials"]:
        trial["held"] = trial.get("held", [])[:2]
        trial["settings"] = {}
        if trial.get("profile"):
            trial["profile"]["functions"] = trial["profile"]["functions"][:2]
    found["summary"] = [each for each in found["summary"] if small(each)]
    found["plan"]["trials"] = found["plan"]["trials"][:2]
    found["plan"]["dataplanes"] = [each for each in found["plan"]["dataplanes"] if each["name"] in kept]
    _plain(found["environment"])
    return found


def matrix(planes: int = 3, checks: int = 4) -> dict[str, Any]:
    """The published matrix with a few planes and checks, as it is written today."""
    found = _today("matrix")
    found["plan"]["checks"] = [each for each in found["plan"]["checks"] if each["name"].startswith("identity")][:checks]
    found["plan"]["dataplanes"] = [each for each in found["plan"]["dataplanes"] if each["name"] in PLANES[: planes + 1]]
    names = {each["name"] for each in found["plan"]["checks"]}
    found["cells"] = [c for c in found["cells"] if c["check"] in names and c["dataplane"] in PLANES[: planes + 1]]
    for facts in found["environment"].values():
        _plain(facts)
    return found


def earlier(name: str) -> dict[str, Any]:
    """A document of schema 1."""
    found: dict[str, Any] = json.loads((ROOT / f"tests/unit/golden/documents/1/{name}.json").read_text("utf-8"))
    return found


def _today(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(api.encoded(reading.read(str(ROOT / "results" / f"{name}.json"))))
    return found


def _plain(environment: dict[str, Any]) -> None:
    for key in ("mitigations", "config", "versions", "cmdline", "sysctl"):
        environment.pop(key, None)


def scenario(name: str) -> str:
    """Return the file of a named scenario."""
    return (ROOT / "scenarios" / "files" / f"{name}.toml").read_text("utf-8")


def trials(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events that a .trials file of such a result holds."""
    found = [{"kind": "environment", "data": document["environment"]}]
    return found + [{"kind": "trial", "data": each} for each in document["trials"]]


SCENARIOS = {name: scenario(name) for name in topology.named()}
