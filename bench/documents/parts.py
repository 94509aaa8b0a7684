"""The parts of a document that are free in form: the program, the environment, the plan.

A writer may tell more than what is here. What is here has these types in every document, and what has no default is in
every document: readers look it up, and the schemas tell it.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from bench.documents import Count, Name, PerSecond
from bench.documents.metrics import Clock


class Writer(Struct):
    """The program that wrote the document."""

    name: str = ""
    version: str = ""
    python: str = ""
    revision: str = ""  # the commit; with a "+" if the program has changed since


class Environment(Struct):
    """The kernel and the machine under test. Facts that could not be read are left out."""

    kernel: Annotated[str, Meta(description="uname -r")]
    clock: Clock
    kernel_name: str = ""  # as --kernel takes it
    kernel_reason: str = ""  # why it was chosen
    kernel_version: Annotated[str, Meta(description="uname -v")] = ""
    machine: Annotated[str, Meta(description="uname -m")] = ""
    cpu: str = ""
    cpus: Count | None = None
    memory_kb: str = ""  # with its unit, as /proc/meminfo tells it
    accelerated: bool = False  # by KVM
    emulator: str = ""
    generator_ceiling: PerSecond = 0  # connections that the generator makes over loopback
    config: dict[str, str] = {}  # what a packet pays for of the kernel's build
    mitigations: dict[str, str] = {}
    versions: dict[str, str] = {}
    sysctl: dict[str, str] = {}


class Planned(Struct):
    """A trial that was planned."""

    workload: str = "crr"
    connections: Count = 0


class Named(Struct):
    """A data plane, or a check with its statement."""

    name: Name
    statement: str = ""
    knobs: dict[str, Any] = {}
    placement: str = ""


class ResultPlan(Struct):
    """What `bench run` was asked to measure."""

    scenario: str = ""
    trials: list[Planned] = []
    dataplanes: list[Named] = []
    command: str = ""


class MatrixPlan(Struct):
    """What `bench matrix` was asked to observe."""

    dataplanes: list[Named]
    checks: list[Named]
    command: str = ""
