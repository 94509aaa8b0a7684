"""`python -m bench.kernels KERNEL CLOCK COMMAND...`: run one command on a kernel; how the tests get into a guest."""

from __future__ import annotations

import os
import sys

from bench import objects
from bench.dispatch import requirements
from bench.kernels import Command, resolve
from bench.preflight import modules
from dataplanes import catalog
from dataplanes.errors import BenchError


def main() -> int:
    """Returns the command's exit code."""
    name, clock, *argv = sys.argv[1:]
    try:
        kernel = resolve(name, clock)
        needs = requirements(catalog.select("all"))
        objects.prepare(needs, kernel)
        command = Command(tuple(argv), dict(os.environ), os.getcwd(), modules=modules(needs))
        return kernel.execute(command, lambda line: None)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
