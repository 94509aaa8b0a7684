"""The errors that this project raises.

BenchError                 something failed; ``exit_code`` 1
├── Usage                  the user asked for something that does not exist or contradicts itself; 2
├── Prerequisite           the machine or the kernel lacks something; 3
├── Unsupported            the plane cannot do this, by its nature (a finding, not a fault); 4
├── NotApplicable          the testbed has no such thing, or permits no such change; 4
├── KernelRefused          the kernel refused a request of a plane or of the lab; 1
├── TimedOut               a bounded wait ran out; 124
└── GuestPanic             the guest's kernel panicked; 255

Exceptions of libraries (pyroute2, nft, bcc, OSError) are translated where they arise, and never reach the user.
"""

from __future__ import annotations


class BenchError(Exception):
    """An error of one line and four parts: what failed, where (node, namespace, plane), why, and what to do."""

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        if self.why:
            text += f": {self.why}"
        if self.fix:
            text += f" ({self.fix})"
        return text


class Usage(BenchError):
    """The request itself is wrong. Nothing was created."""

    exit_code = 2


class Prerequisite(BenchError):
    """Something that the run needs is missing. Nothing was created."""

    exit_code = 3


class Unsupported(BenchError):
    """The data plane cannot do this, by its nature."""

    exit_code = 4


class NotApplicable(BenchError):
    """The testbed has no such thing, or permits no such change. So what was to be observed does not apply there."""

    exit_code = 4


class KernelRefused(BenchError):
    """The kernel refused a request."""


class TimedOut(BenchError):
    """A bounded wait ran out."""

    exit_code = 124


class GuestPanic(BenchError):
    """The guest's kernel panicked."""

    exit_code = 255
