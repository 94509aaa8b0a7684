"""What a guest does on its own, once a minute, falls into no trial: each waits for it first."""

from __future__ import annotations

import pytest

from scenarios import stopwatch
from tests.lab.conftest import running


@pytest.mark.idle
def test_connection_trackings_table_is_walked_once_a_minute() -> None:
    """A walk is seen, and after it none for the time of a trial. Without connection tracking there would be none."""
    with running("nft-container"):
        stopwatch.await_walk()
        assert 30 < stopwatch.await_walk() < 69
