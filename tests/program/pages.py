"""Commands and files that pages show, for tests that follow them."""

from __future__ import annotations

import re

from tests.conftest import ROOT

IMPORT = (ROOT / "docs" / "import.md").read_text("utf-8")
STACK = re.findall(r"^```yaml\n(.*?)^```", IMPORT, re.M | re.S)[0]
"""The stack file of docs/import.md."""


def shown(page: str) -> list[tuple[str, str]]:
    """Return each command of a page's consoles, with the output that is shown below it."""
    consoles = re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S)
    return [found for each in consoles for found in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", each, re.M)]
