"""Write which mutants were killed to tests/lab/mutants/score.json, from what the tests have told (`tox -e mutants`).

    python -m tests.lab.mutants.score JUNIT..

Mutants that were not tried this time keep what was seen of them before. What was never tried has no kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from bench.report import mutants
from bench.report.mutants import Tried
from tests.conftest import ROOT
from tests.lab.mutants import table


def told(path: Path) -> Iterator[dict[str, str]]:
    """Yield what each test of a mutant has told that ended as its row says."""
    for case in ElementTree.parse(path).iter("testcase"):  # the file is our own
        properties = {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        if "mutant" in properties and case.find("failure") is None:
            yield properties


def main(paths: list[str]) -> None:
    """Write the file, and tell how many mutants of each mechanism were killed, and which were not tried."""
    known = {(each.mechanism, each.name): (each.kernel, each.seen) for each in mutants.tried_in(ROOT) if each.kernel}
    for path in filter(Path.exists, map(Path, paths)):
        for each in told(path):
            known[each["mechanism"], each["mutant"]] = each["kernel"], each["seen"]
    tried, missing = [], []
    for mechanism, rows in table.load().items():
        for row in rows:
            if (mechanism, row.name) not in known:
                missing.append(f"{mechanism}: {row.name} was not tried")
            kernel, seen = known.get((mechanism, row.name), ("", ""))
            by, explored = row.check or row.sequence, bool(row.sequence)
            tried.append(Tried(mechanism, row.name, row.plane, row.fault, by, explored, kernel, seen, row.survives))
        killed = sum(bool(each.seen) for each in tried if each.mechanism == mechanism)
        print(f"{mechanism}: {killed} of {len(rows)} killed")
    mutants.write(ROOT, tried)
    if missing:
        raise SystemExit("\n".join(missing))


if __name__ == "__main__":
    main(sys.argv[1:])
