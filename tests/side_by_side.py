"""Run commands side by side, `python -m tests.side_by_side COMMAND... -- COMMAND...`; each one's words stay together.

The lab's tests keep one core busy, and CI has two.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

NOTHING_SELECTED = 5  # pytest's exit code; what -k selects may all be in another command


def run(argv: list[str]) -> int:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    return done.returncode


def main(words: list[str]) -> int:
    """The worst exit code; NOTHING_SELECTED only if it is everybody's."""
    commands = [list(group) for between, group in groupby(words, lambda word: word == "--") if not between]
    with ThreadPoolExecutor(len(commands)) as several:
        codes = list(several.map(run, commands))
    return max([code for code in codes if code != NOTHING_SELECTED], default=NOTHING_SELECTED, key=abs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
