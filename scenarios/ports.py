"""The ports that a service declares in a scenario, as users write them: 80, 80/tcp, 53/udp, 9899/sctp."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dataplanes.model import Port, Protocol

_MOST = 64
_PORT = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?\Z", re.ASCII)
_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp", "sctp": "sctp"}


def parse(texts: Sequence[str]) -> tuple[Port, ...]:
    """Read declared ports; without a protocol it is TCP. Raises ValueError, which says what is wrong."""
    if len(texts) > _MOST:
        raise ValueError(f"{len(texts):,} ports, more than {_MOST}")
    found: list[Port] = []
    for text in texts:
        match = _PORT.match(text)
        if not match or not 0 < int(match[1]) < 65536:
            raise ValueError(f"{text!r} is not a port: write 80, 80/tcp, 53/udp or 9899/sctp")
        port = Port(_PROTOCOLS[match[2] or "tcp"], int(match[1]))
        if port in found:
            raise ValueError(f"{port.number}/{port.protocol} is declared twice")
        found.append(port)
    return tuple(found)
