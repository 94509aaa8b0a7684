"""A node of a swarm stands still: its daemons, and the processes that they have started for containers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

from dataplanes.kernel import pids, process
from scenarios.journal import Journal
from scenarios.swarm.node import SwarmNode


def test_the_shims_of_a_node_stand_still_with_its_daemons_and_one_that_stood_still_before_goes_on_doing_so() -> None:
    script = "setsid sleep 60 & setsid sleep 60 & exec sleep 60"
    with Journal() as journal:
        node = SwarmNode("worker1", "", "10.0.0.1", journal)
        with process.pid_namespace():
            node._process = subprocess.Popen(("sh", "-c", script), start_new_session=True)
        try:
            daemon = node._process.pid
            _await(lambda: [pids.words(each, "Name") for each in node._others()] == [["sleep"]] * 2)
            of_a_crashed_container, shim = node._others()
            os.kill(of_a_crashed_container, signal.SIGSTOP)
            _await(lambda: pids.state(of_a_crashed_container) == "T")
            node.freeze()
            _await(lambda: [*map(pids.state, (daemon, shim, of_a_crashed_container))] == ["T", "T", "T"])
            node.thaw()
            _await(lambda: [*map(pids.state, (daemon, shim, of_a_crashed_container))] == ["S", "S", "T"])
        finally:
            node.stop()


def _await(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
