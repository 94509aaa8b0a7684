"""What all tests share. A test's directory says what it needs, so it also gives the test its marker."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        directory = item.path.relative_to(ROOT / "tests").parts[0]
        if directory in ("lab", "program"):
            item.add_marker(directory)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
