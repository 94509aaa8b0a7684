"""A file of somebody's as the scenario that `bench import` makes of it."""

from __future__ import annotations

from pathlib import Path

from bench.imports import reading, toml
from scenarios import topology
from scenarios.topology import Scenario


class Told:
    """The scenario of a file, as it is read again, and the notes."""

    def __init__(self, path: Path, nodes: int, *more: Path) -> None:
        found = reading.imported([str(each) for each in (path, *more)], nodes)
        self.scenario: Scenario = topology.parse(toml.text(found.scenario, ""), "s.toml")
        self.notes = [str(note).removeprefix(f"{path}:").strip() for note in found.notes]

    def service(self, name: str) -> tuple[str, list[str], list[tuple[str, str, int]]]:
        found = self.scenario.service(name)
        return found.vip, found.ports, [(task.node, task.address, task.weight) for task in found.tasks]


def told(tmp_path: Path, text: str, nodes: int = 3) -> Told:
    path = tmp_path / "file"
    path.write_text(text, "utf-8")
    return Told(path, nodes)
