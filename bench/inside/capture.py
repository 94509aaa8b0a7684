"""A bounded packet capture of several namespaces at once, without a process or a thread.

The kernel keeps unread packets of a packet socket up to the size of its buffer, which is the bound.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dataplanes.kernel import netns

_BUFFER = 4 << 20  # bytes per namespace
_SNAPLEN = 2048
_ETH_P_ALL = 3
_SO_TIMESTAMPNS = 35
_HEADER = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, _SNAPLEN, 1)  # nanosecond pcap of Ethernet frames


@contextmanager
def capture(namespaces: Sequence[str]) -> Iterator[dict[str, bytes]]:
    """Capture during the block.

    Afterwards the yielded dict has the content of a pcap file for each namespace with packets.
    """
    taps: dict[str, socket.socket] = {}
    files: dict[str, bytes] = {}
    try:
        for name in namespaces:
            with netns.inside(name):
                tap = taps[name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            tap.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            tap.setblocking(False)
        yield files
        for name, tap in taps.items():
            content = b"".join(_records(tap))
            if content:
                files[name] = _HEADER + content
    finally:
        for tap in taps.values():
            tap.close()


def _records(tap: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            frame, ancillary, _, source = tap.recvmsg(_SNAPLEN, 64)
        except BlockingIOError:
            return
        if source[0] == "lo" and source[2] == socket.PACKET_OUTGOING:  # type: ignore[attr-defined, unused-ignore]
            continue  # lo shows each frame twice
        seconds, nanoseconds = next(
            (struct.unpack("=qq", data) for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS), (0, 0)
        )
        yield struct.pack("=IIII", seconds, nanoseconds, len(frame), len(frame)) + frame
