"""Tell again what failed: between a failure and the end of `./run tox` lie the outputs of the environments after it.

    python -m tests.failed DIRECTORY

reads the JUnit files of DIRECTORY and prints each failed test with the end of its text. It always ends with 0: what
failed has failed its own environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_LINES = 15
"""Of a failure's text: the assertion and where it stands are at its end."""


def failures(junit: Path) -> Iterator[str]:
    """Each failure or error in a JUnit file as text. A file that pytest did not finish is a failure, too."""
    try:
        cases = list(ElementTree.parse(junit).iter("testcase"))
    except ElementTree.ParseError as error:
        yield f"{junit.name} was not finished: {error}"
        return
    for case in cases:
        for result in (*case.iter("failure"), *case.iter("error")):
            lines = (result.text or result.get("message") or "").splitlines()
            first = f"{junit.stem.removeprefix('junit-')}: {case.get('classname')}::{case.get('name')}"
            yield "\n  ".join((first, *lines[-_LINES:]))


def main(directory: Path) -> None:
    """Print the failures of the directory's JUnit files."""
    for junit in sorted(directory.glob("junit-*.xml")):
        for failure in failures(junit):
            print(failure)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
