"""A container of the lab: a task's namespace, its attachments and its processes."""

from __future__ import annotations

import subprocess
from typing import Any

from dataplanes.model import Endpoint
from scenarios.topology import Task


class Container:
    """A task's namespace, its attachments and its processes."""

    def __init__(self, task: Task, name: str) -> None:
        self.task = task
        self.netns = name
        self.endpoints: list[Endpoint] = []
        self.aliases: list[str] = []  # further addresses on the first endpoint
        self.processes: list[subprocess.Popen[Any]] = []
        self.cgroup: str | None = None
        self.crashed = False

    def stop(self) -> None:
        """End the processes. The namespace stays."""
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self.processes.clear()
