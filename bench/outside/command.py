"""The program `python -m bench.outside.command [--cpus N] KERNEL CLOCK COMMAND...`, which runs a command on a kernel.

The tests run in a guest by it.
"""

from __future__ import annotations

import argparse
import os
import sys

from bench.kernels import Command, resolve
from bench.kernels.guest import Guest
from bench.prepare import objects
from bench.prepare.preflight import modules
from bench.prepare.ready import requirements
from dataplanes import catalog, follower
from dataplanes.kernel import interrupt


def main() -> int:
    """Run the command, and return its exit code."""
    asked = _asked()
    return interrupt.exit_code(lambda: _run(asked), lambda error: print(f"bench: {error}", file=sys.stderr))


def _run(asked: argparse.Namespace) -> int:
    kernel = resolve(asked.kernel, asked.clock)
    if asked.cpus and isinstance(kernel, Guest):
        kernel.cpus = asked.cpus
    needs = (*requirements(catalog.select("all")), *follower.REQUIRES)
    objects.compile_missing(needs, kernel)
    argv = (asked.command, *asked.arguments)
    command = Command(argv, dict(os.environ), os.getcwd(), stdin=True, modules=modules(needs))
    return kernel.execute(command, lambda line: None)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.outside.command", description="Run one command on a kernel.")
    parser.add_argument("--cpus", type=int, help="of a guest under the wall clock")
    parser.add_argument("kernel")
    parser.add_argument("clock", choices=("wall", "instructions"))
    parser.add_argument("command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
