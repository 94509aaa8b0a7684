"""`python -m tests.lab.guests PYTEST-ARGUMENTS...`: the tests in namespaces, in two guests at once.

A guest runs one test at a time, and a test is one thread most of the time: two guests take half as long on two cores.
The files are shared out so that both take about as long (7 minutes under emulation).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent
_FIRST = ("test_change.py", "test_halfway.py", "test_nft_director.py")


def main(arguments: list[str]) -> int:
    """Returns the worse exit code; output comes guest by guest, when each is done."""
    files = sorted(path.name for path in _HERE.glob("test_*.py"))
    groups = [[name for name in files if name in _FIRST], [name for name in files if name not in _FIRST]]
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=5", "-m", "lab", *arguments]
    guests = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.kernels", "guest", "wall", *pytest, *(f"tests/lab/{name}" for name in group)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for group in groups
    ]
    codes = []
    for guest in guests:
        output, _ = guest.communicate()
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
        codes.append(guest.returncode)
    # 5: no test was chosen (-k), which is fine for one of them
    return max((code for code in codes if code != 5), default=5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
