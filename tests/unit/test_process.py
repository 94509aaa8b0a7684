"""A child ends with its parent, whenever its parent ends."""

from __future__ import annotations

import subprocess
import sys

ORPHAN = """
import os
from dataplanes.kernel.process import die_with

parent = os.getpid()
if not os.fork():
    while os.getppid() == parent:
        os.sched_yield()
    die_with(parent)
    os.write(1, b"alive")
"""


def test_a_child_goes_though_its_parent_went_before_it_asked() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b""
