"""The choice of a run's kernel, with the reason."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench import kernels
from bench.kernels import Kernel
from bench.prepare import preflight
from bench.prepare.ready import requirements
from dataplanes.errors import Prerequisite
from dataplanes.requirements import Requirement
from dataplanes.selection import Selection


def choose(
    name: str,
    clock: str | None,
    selections: Sequence[Selection],
    *,
    measuring: bool = True,
    more: Sequence[Requirement] = (),
) -> tuple[Kernel, str]:
    """Return the kernel that `--kernel` and `--clock` mean for these planes and `more` requirements, and the reason.

    `auto` is the host if every plane can run there, and else the guest. A command that measures nothing has the wall
    clock unless another is asked for: a guest boots faster with it, and a person's `sleep 1` takes a second. Raises
    Usage for an unknown kernel, and Prerequisite if the chosen one cannot be had.
    """
    if name == "auto" and clock != "instructions":
        lacking = obstacle(kernels.resolve("host", "wall"), selections, more)
        if not lacking:
            return kernels.resolve("host", "wall"), "every plane of the run can run here"
        return kernels.resolve("guest", _clock(clock, measuring)), f"not the host: {lacking}"
    if name == "auto":
        return kernels.resolve("guest", clock), "only a guest has an instruction clock"
    kernel = kernels.resolve(name, clock if name == "host" else _clock(clock, measuring))
    if name == "host":
        why, fix = _lacking(kernel, selections, more)
        if why:
            raise Prerequisite("cannot run on the host's kernel", why=why, fix=fix)
    return kernel, "asked for"


def _clock(clock: str | None, measuring: bool) -> str | None:
    return clock or (None if measuring else "wall")


def obstacle(host: Kernel, selections: Sequence[Selection], more: Sequence[Requirement] = ()) -> str:
    """Return why these planes cannot run on the host's kernel, or ""."""
    return _lacking(host, selections, more)[0]


def _lacking(host: Kernel, selections: Sequence[Selection], needs: Sequence[Requirement]) -> tuple[str, str]:
    """Return why these planes cannot run on the host's kernel, and what to do; "" and "" if they can."""
    if os.geteuid() != 0:
        return "not root", "use --kernel guest"
    lacking = preflight.missing((*requirements(selections), *needs), host)
    if not lacking:
        return "", ""
    others = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    return f"{lacking[0].why}{others}", lacking[0].fix
