"""The distribution's Python modules. nftables and bcc are on no index, only in packages for the distribution's python3.

They are pure Python, so a program that was installed elsewhere, as pipx installs one, can import them from there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

DIRECTORY = "/usr/lib/python3/dist-packages"


@contextmanager
def modules() -> Iterator[None]:
    """Let imports find the distribution's modules, after all others."""
    if DIRECTORY in sys.path:
        yield
        return
    sys.path.append(DIRECTORY)
    try:
        yield
    finally:
        sys.path.remove(DIRECTORY)


def has(name: str) -> bool:
    """Return True if a module can be imported, from the distribution or not."""
    with modules():
        return find_spec(name) is not None
