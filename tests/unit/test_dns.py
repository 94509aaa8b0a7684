"""The lab's resolver is a process like any other: it may be killed."""

from __future__ import annotations

import os
import signal

import pytest

from dataplanes.errors import BenchError
from scenarios.dns import Resolver


def test_a_resolver_that_was_killed_is_an_error_of_ours() -> None:
    resolver = Resolver()
    try:
        resolver.publish({})
        os.kill(resolver.pid, signal.SIGKILL)
        with pytest.raises(BenchError, match="the embedded DNS process died"):
            for _ in range(2):  # the first may still be written before it is gone
                resolver.publish({})
    finally:
        resolver.close()
