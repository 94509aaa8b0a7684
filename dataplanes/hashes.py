"""The hash by which names are shortened and files are recognised."""

from __future__ import annotations


def sha256(*parts: bytes) -> bytes:
    """Return the SHA-256 of some bytes, one after another.

    The import is late: behind hashlib is OpenSSL's library of 4.5 MB, and most planes do without it in a guest.
    """
    import hashlib

    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return made.digest()
