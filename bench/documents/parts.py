"""The parts of a document with a free form: the program, the environment, the plan.

A writer may add more facts. The fields here have these types in every document, and a field without a default is in
every document, because readers look it up. The schemas list them.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from bench.documents import Count, Name, PerSecond, Seconds
from bench.documents.metrics import Clock


class Writer(Struct):
    """The program that wrote the document."""

    name: str = ""
    version: str = ""
    python: str = ""
    revision: str = ""  # the commit, with a "+" if the program has changed since


class Environment(Struct):
    """The kernel and the machine under test. Facts that could not be read are left out."""

    kernel: Annotated[str, Meta(description="uname -r")]
    clock: Clock
    kernel_name: str = ""  # as --kernel takes it
    kernel_reason: str = ""  # the reason for its choice
    kernel_version: Annotated[str, Meta(description="uname -v")] = ""
    machine: Annotated[str, Meta(description="uname -m")] = ""
    cpu: str = ""
    cpus: Count | None = None
    memory_kb: str = ""  # with its unit, as in /proc/meminfo
    accelerated: bool = False  # True with KVM
    emulator: str = ""
    generator_ceiling: PerSecond = 0  # connections per second that the generator reaches over loopback
    config: dict[str, str] = {}  # options of the kernel's build that affect the cost of a packet
    mitigations: dict[str, str] = {}
    versions: dict[str, str] = {}
    sysctl: dict[str, str] = {}


class Planned(Struct):
    """A trial that was planned."""

    workload: str = "crr"
    connections: Count = 0


class Need(Struct):
    """A requirement of a data plane: what it is, and its name among those of its kind."""

    kind: str = ""  # feature, tool, package, condition, compiled, executable, unpacked (dataplanes.requirements)
    name: str = ""  # of a tool, a package, a condition or an eBPF object; the path of an executable
    config: str = ""  # of a feature: its Kconfig symbol, without CONFIG_
    module: str = ""  # of a feature that may be built as a module
    purpose: str = ""


class ToldPackage(Struct):
    """A Debian package whose files a program used."""

    name: str = ""
    version: str = ""
    suite: str = ""  # as apt tells it: Debian:12.12/oldstable


class ToldProgram(Struct):
    """The program of a plane file, or a platform, which has only a summary, packages and what it imitates."""

    digest: str = ""  # of its contents, with those of its plane file
    summary: str = ""
    ports: str = "any"  # or declared
    protocols: list[str] = []
    scheduler: str = "rr"  # or random
    serve: bool = False
    imitates: str = ""  # the plane of the catalog whose outcomes are expected of it, unless its own file says otherwise
    packages: list[ToldPackage] = []


class Named(Struct):
    """A data plane as it was selected, or a check with its statement."""

    name: Name
    statement: str = ""
    dataplane: str = ""
    variant: str = ""
    knobs: dict[str, Any] = {}
    placement: str = ""
    mechanism: str = ""
    needs: list[Need] = []
    program: ToldProgram | None = None


class ResultPlan(Struct):
    """The request to `bench run`."""

    scenario: str = ""
    trials: list[Planned] = []
    dataplanes: list[Named] = []
    command: str = ""


class MatrixPlan(Struct):
    """The request to `bench matrix`."""

    dataplanes: list[Named]
    checks: list[Named]
    command: str = ""
    scenario: str = ""  # the scenario in the place of the checks' own; "": none
    cast: dict[str, str] = {}  # the names of its parts, by those that checks know


class ExplorationPlan(Struct):
    """The request to `bench explore`."""

    dataplanes: list[Named] = []
    seed: Count = 0
    steps: Count | None = None  # of one plane; None: no limit
    seconds: Seconds | None = None  # for one plane; None: no limit
    command: str = ""


class TracePlan(Struct):
    """The request to `bench trace`."""

    dataplanes: list[Named] = []
    scenario: str = ""
    origin: str = ""  # the container that asks; "": the scenario's client
    service: str = ""  # the service that it asks; "": the one that the scenario's client calls
    protocol: str = ""
    until: str = ""
    size: int = 1  # bytes of the request
    command: str = ""
