"""Which kernel a run uses, and why."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench import dispatch, kernels, preflight
from bench.kernels import Kernel
from dataplanes.catalog import Selection
from dataplanes.errors import Prerequisite

CLOCKS = ("wall", "instructions")


def choose(name: str, clock: str | None, selections: Sequence[Selection]) -> tuple[Kernel, str]:
    """The kernel `--kernel` and `--clock` mean for these planes, with the reason.

    `auto` is the host when every plane can run there, else the guest. Raises Usage for an unknown kernel and
    Prerequisite where the chosen one cannot be had.
    """
    if name == "host" or (name == "auto" and clock == "wall"):
        host = kernels.resolve("host", "wall")
        obstacle = _obstacle(host, selections)
        if not obstacle:
            return host, "asked for" if name == "host" else "every plane of the run can run here"
        if name == "host":
            raise Prerequisite("cannot run on the host's kernel", why=obstacle, fix="use --kernel guest")
    if name == "auto":
        obstacle = "" if clock == "instructions" else _obstacle(kernels.resolve("host", "wall"), selections)
        if not obstacle and clock is None:
            return kernels.resolve("host", "wall"), "every plane of the run can run here"
        guest = kernels.resolve("guest", clock)
        return guest, f"not the host: {obstacle}" if obstacle else "only a guest has an instruction clock"
    return kernels.resolve(name, clock), "asked for"


def _obstacle(host: Kernel, selections: Sequence[Selection]) -> str:
    """Why these planes cannot run on the host's kernel, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    lacking = preflight.missing(dispatch.requirements(selections), host)
    return "; ".join(f"{each.what}: {each.why}" for each in lacking[:3])
