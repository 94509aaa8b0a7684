"""The program `python -m tests.beside COMMAND... -- COMMAND... -- ...`: one command beside others.

The first command waits more than it computes, so the others have the processors meanwhile. They run one after another,
and the first one's output is printed when all have ended. The exit code is that of the first command that fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

BETWEEN = "--"


def commands(words: Sequence[str]) -> Iterator[list[str]]:
    """Split words into commands."""
    command: list[str] = []
    for word in words:
        if word == BETWEEN:
            yield command
            command = []
        else:
            command.append(word)
    yield command


def main(words: Sequence[str]) -> int:
    """Run the commands. All of them are run, whatever one of them returns."""
    first, *others = commands(words)
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(first, stdout=output, stderr=output, stdin=subprocess.DEVNULL) as beside:
            try:
                codes = [subprocess.run(each, check=False).returncode for each in others]
            except BaseException:
                beside.terminate()
                raise
        output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
    return next((code for code in (beside.returncode, *codes) if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
