"""Offloads of a link: what the kernel leaves to the device, such as the checksums of what is sent (ethtool(8), -K)."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns

_SIOCETHTOOL = 0x8946
_SET_TX_CHECKSUMS = 0x17  # ETHTOOL_STXCSUM
_REQUEST = struct.Struct("=16sQ")  # struct ifreq: the name, and where struct ethtool_value is
_VALUE = struct.Struct("=II")


def checksum(name: str, interface: str) -> None:
    """Let the kernel compute the checksums of what an interface sends. A veth otherwise leaves them out."""
    value = ctypes.create_string_buffer(_VALUE.pack(_SET_TX_CHECKSUMS, 0))
    request = _REQUEST.pack(interface.encode(), ctypes.addressof(value)).ljust(40, b"\0")
    with netns.inside(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
        except OSError as error:
            raise KernelRefused(
                "checksums are not computed", where=f"{name}: {interface}", why=error.strerror or ""
            ) from error
