"""Prints the failures again at the end of `./run tox`, where the outputs of later environments would hide them.

    python -m tests.failed DIRECTORY

reads the JUnit files of DIRECTORY, and prints each failed test with the end of its text. It always ends with 0, because
the failure has already failed its own environment.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

_LINES = 15
"""The number of characters of a failure's text. The assertion and its place are at the end."""


def failures(junit: Path) -> Iterator[str]:
    """Return the failures and errors of a JUnit file as texts. A file that pytest did not finish is a failure, too."""
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
