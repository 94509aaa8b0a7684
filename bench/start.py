"""The entry point of python: `bench`, and `python -m bench.start inside|lane ARGUMENT...` for the program's own parts.

An interrupt while modules are imported ends the program without a traceback. Nothing has been created at that time.
"""

from __future__ import annotations

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the program."""
    from bench.cli.main import main as program

    program(prog_name="bench")


def _part() -> int:
    name = sys.argv.pop(1)
    if name == "inside":
        from bench.inside.main import main as part
    else:
        from bench.outside.lane import main as part
    return part()


if __name__ == "__main__":
    sys.exit(_part())
