"""A program that becomes virtiofsd in a mount namespace of its own: `virtiofsd.py ro|rw PROGRAM ARGUMENT...`.

With `ro` every mount in this namespace is read-only. The guest's root user can mount a share for writing, and the
virtiofsd of QEMU 7 has no option that forbids it. This program needs root.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _demand(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """Replace this process by virtiofsd."""
    access, *argv = sys.argv[1:]
    _demand(_libc.unshare(_CLONE_NEWNS))
    _demand(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    if access == "ro":
        attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
        _demand(_libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes)))
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
