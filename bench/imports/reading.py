"""Files of any kind that is known, read together as one scenario."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from bench.imports import compose, ipvsadm, kubernetes, making, merging, nft
from bench.imports.found import Discovery, Note
from bench.imports.marked import Value, documents
from dataplanes import files
from dataplanes.errors import Usage
from scenarios.topology import Scenario

_MOST_BYTES = 16 << 20
KINDS = "compose or stack files, Kubernetes objects, the output of `ipvsadm -S` or of `nft -j list ruleset`"


class Imported(Struct):
    """A scenario, and what was not carried over as it is, in the order of files and lines."""

    scenario: Scenario
    notes: list[Note]


def imported(paths: Sequence[str], nodes: int = making.NODES) -> Imported:
    """Read files as a scenario with at least so many nodes.

    Raises Usage for a file that cannot be read, with its line and field.
    """
    found = Discovery(", ".join(paths))
    objects: list[Value] = []
    composed: list[Value] = []
    for path in paths:
        _read(files.text(path, _MOST_BYTES), path, found, objects, composed)
    kubernetes.discover(objects, found)
    if composed:
        compose.discover(merging.merged(composed, found), found)
    made = making.scenario(found, nodes)
    order = {path: number for number, path in enumerate(paths)}

    def place(note: Note) -> tuple[int, int]:
        path, _, line = note.where.rpartition(":")
        return (order[path], int(line)) if path in order and line.isdigit() else (len(order), 0)

    return Imported(made, list(dict.fromkeys(sorted(found.notes, key=place))))


def _read(text: str, path: str, found: Discovery, objects: list[Value], composed: list[Value]) -> None:
    """Add what a file tells. Kubernetes objects and compose files are understood together, and only collected here."""
    if ipvsadm.is_ipvsadm(text):
        ipvsadm.discover(text, path, found)
        return
    read = [each for each in documents(text, path) if each.data is not None]
    if read and nft.is_nft(read[0]):
        nft.discover(read[0], found)
    elif any(kubernetes.is_kubernetes(each) for each in read):
        objects += read
    elif read and all(compose.is_compose(each) for each in read):
        composed += map(compose.of_version_2, read)
    else:
        raise Usage("not a file that can be imported", where=f"{path}:1", why=f"it is none of {KINDS}")
