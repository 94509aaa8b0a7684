"""Checks of requirements. `bench doctor`, a run before it starts, and the tests use this one source."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping

from msgspec import Struct

from bench.kernels import Kernel, not_shared
from bench.prepare import unpacked
from dataplanes.errors import Prerequisite
from dataplanes.kernel import distribution
from dataplanes.requirements import Compiled, Condition, Executable, Feature, Package, Requirement, Unpacked

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a command counts as installed, whatever the caller's own PATH is."""


class Availability(Struct, frozen=True):
    """The answer to one requirement."""

    what: str
    purpose: str
    ok: bool
    why: str = ""
    fix: str = ""


def availability(requirement: Requirement, kernel: Kernel) -> Availability:
    """Return whether a kernel has it. For a tool, look on this machine, whose root file system a guest shares."""
    if isinstance(requirement, Feature):
        return _feature(requirement, kernel)
    if isinstance(requirement, Condition):
        why = requirement.obstacle() if kernel.name == "host" else ""
        return Availability(requirement.name, requirement.purpose, not why, why, "use --kernel guest" if why else "")
    if isinstance(requirement, Executable):
        return _executable(requirement, kernel)
    if isinstance(requirement, Compiled):  # the run compiles it; compiling has its own requirements
        return Availability(requirement.purpose, "", True)
    if isinstance(requirement, Unpacked):
        why, fix = unpacked.obstacle(requirement.packages())
        return Availability(requirement.name, requirement.purpose, not why, why, fix)
    if isinstance(requirement, Package):
        ok = distribution.has(requirement.name)
    else:
        ok = shutil.which(requirement.name, path=PATH) is not None
    return Availability(
        requirement.name,
        requirement.purpose,
        ok,
        "" if ok else "not installed",
        "" if ok else f"apt-get install {requirement.package}",
    )


def _executable(program: Executable, kernel: Kernel) -> Availability:
    why = fix = ""
    if not os.access(program.name, os.X_OK):
        why, fix = "it is not there, or not executable", "put it there, or correct the plane file"
    elif kernel.name != "host" and (place := not_shared(program.name)):
        why, fix = f"a guest has a {place} of its own", "put the plane file and its program elsewhere"
    return Availability(program.name, program.purpose, not why, why, fix)


def _feature(feature: Feature, kernel: Kernel) -> Availability:
    name = f"CONFIG_{feature.config}"
    config: Mapping[str, str] | None = kernel.config()
    if config is None:  # the kernel does not publish its configuration, so look for the module
        ok = not feature.module or kernel.has_module(feature.module)
        why = "" if ok else f"no module {feature.module}, and the kernel does not publish its configuration"
    elif config.get(name) == "y":
        ok, why = True, ""
    elif config.get(name) == "m":
        ok = kernel.has_module(feature.module)
        why = "" if ok else f"the module {feature.module} is not installed"
    else:
        ok, why = False, f"{kernel.name} ({kernel.release}) is built without {name}"
    return Availability(name, feature.purpose, ok, why, "" if ok else "use --kernel guest")


def missing(requirements: Iterable[Requirement], kernel: Kernel) -> list[Availability]:
    """Return the requirements that are not met."""
    return [found for found in (availability(each, kernel) for each in requirements) if not found.ok]


def demand(requirements: Iterable[Requirement], kernel: Kernel, where: str) -> None:
    """Raise Prerequisite with everything that is missing, if anything is."""
    lacking = missing(requirements, kernel)
    if lacking:
        reasons = "; ".join(f"{each.what}: {each.why}" for each in lacking)
        fixes = "; ".join(dict.fromkeys(each.fix for each in lacking))
        raise Prerequisite("cannot run here", where=where, why=reasons, fix=fixes)


def modules(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    """Return the modules to load before anything starts. Loading a module on demand would cost a process."""
    named = (each.module for each in requirements if isinstance(each, Feature))
    return tuple(dict.fromkeys(name for name in named if name))
