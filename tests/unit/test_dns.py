"""The lab's resolver is a process that may be killed as any other."""

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
        os.waitid(os.P_PID, resolver.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(BenchError, match="the embedded DNS process died"):
            resolver.publish({})
    finally:
        resolver.close()
