"""SCTP's packets, with one chunk each (RFC 9260, section 3)."""

from __future__ import annotations

import struct

_COOKIE = b"\0\7\0\x0cbiscuits"  # a parameter of an INIT ACK: the state cookie
_CHUNKS = {
    "I": 1,  # INIT
    "IA": 2,  # INIT ACK
    "E": 10,  # COOKIE ECHO
    "EA": 11,  # COOKIE ACK
    "D": 0,  # DATA
    "W": 0,  # the same, with the tag of another association
    "H": 4,  # HEARTBEAT
    "HA": 5,  # HEARTBEAT ACK
    "Q": 7,  # SHUTDOWN
    "QA": 8,  # SHUTDOWN ACK
    "QC": 14,  # SHUTDOWN COMPLETE
    "R": 6,  # ABORT
}


def packet(what: str, ports: tuple[int, int], tag: int, peers: int, number: int) -> bytes:
    """Return a packet from the end with this tag, without its checksum. `number` makes it different from all others."""
    value, flags = b"", 0
    if what in ("I", "IA"):
        value = struct.pack(">IIHHI", tag, 65536, 1, 1, number) + (_COOKIE if what == "IA" else b"")
    elif what in ("D", "W"):
        value, flags = struct.pack(">IHHI4s", number, 0, 0, 0, b"data"), 3  # a whole message
    elif what in ("H", "HA"):
        value = struct.pack(">HHI", 1, 8, number)
    elif what in ("E", "Q"):
        value = struct.pack(">I", number)
    chunk = struct.pack(">BBH", _CHUNKS[what], flags, 4 + len(value)) + value
    told = {"I": 0, "W": peers ^ 1 << 30}.get(what, peers)
    return struct.pack(">HHII", *ports, told, 0) + chunk


def sealed(packet: bytes) -> bytes:
    """Return the packet with its checksum, a CRC32c."""
    value = 0xFFFFFFFF
    for byte in packet[:8] + bytes(4) + packet[12:]:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return packet[:8] + struct.pack("<I", value ^ 0xFFFFFFFF) + packet[12:]


def _remainder(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_remainder(byte) for byte in range(256)]
