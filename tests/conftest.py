"""Fixtures of all tests. A test's directory says what the test needs, so it also gives the test its marker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from dataplanes.kernel import interrupt

_ANY = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
settings.register_profile("quick", _ANY, max_examples=60, derandomize=True)
settings.register_profile("long", _ANY, max_examples=int(os.environ.get("EXAMPLES", "100000")), print_blob=True)
settings.register_profile("mutation", _ANY, max_examples=60, derandomize=True, phases=(Phase.generate,))
settings.load_profile("quick")
"""The profile for long campaigns: EXAMPLES=50000 python -m pytest --hypothesis-profile=long tests/unit/fuzz -k ...

With `mutation` a failure is not made small: nobody reads it.
"""

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Set signals as on a terminal.

    A shell's background jobs and nohup ignore some of them, and children inherit that.
    """
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        directory = item.path.relative_to(ROOT / "tests").parts[0]
        elsewhere = any(map(item.get_closest_marker, ("idle", "explore", "mutants", "swarm", "trace")))
        if directory in ("lab", "program") and not elsewhere:
            item.add_marker(directory)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the checkout's path."""
    return ROOT


@pytest.fixture
def signals() -> Iterator[None]:
    """What a signal leaves behind in this process is put back."""
    before = {number: signal.getsignal(number) for number in interrupt.SIGNALS}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    interrupt._caught.clear()
    for number, handler in before.items():
        signal.signal(number, handler)
