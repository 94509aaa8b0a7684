"""The load generator: a small C program, server and clients; here its command lines and its results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct


class Counted(Struct, frozen=True):
    """What the kernel counted while a client ran."""

    elapsed_ns: int
    syn_retransmits: int
    retransmits: int
    cpu_ns: dict[str, int]  # of the client process
    stat_ns: dict[str, int]  # /proc/stat: softirq work is in no process's account


class LoadResult(Counted, frozen=True):
    """What `load` measured. `figures` has the latencies by their names in bench.documents.metrics, exact."""

    connections: int
    concurrency: int
    threads: int
    ok: int
    requests: int  # answered
    stalled: int  # connections that took more than a second, and were answered
    errors: dict[str, int]  # by class, every class named
    backends: dict[str, int]  # requests answered, by server id
    figures: dict[str, float]


class DatagramResult(Counted, frozen=True):
    """What `udp` measured. `figures` has the latencies by their names in bench.documents.metrics: of a flow's first
    datagram, only with fresh flows, and of all others."""

    exchanges: int
    concurrency: int
    ok: int
    lost: int
    late: int
    refused: int
    backends: dict[str, int]
    figures: dict[str, float]


class StreamResult(Counted, frozen=True):
    """What `stream` measured."""

    bytes: int


def binary() -> Path:
    """The compiled program; see bench.native."""
    from bench import native  # only here: what runs in the guest finds it compiled

    return native.binary("vipload")


def serve_argv(
    number: int, *, tcp: Sequence[int] = (), udp: Sequence[int] = (), udp_as_asked: Sequence[int] = ()
) -> list[str]:
    """A server that answers with `number` (1 to 255) and ends with this process, which is to start it."""
    kinds = {"--tcp": tcp, "--udp": udp, "--udp-as-asked": udp_as_asked}
    ports = [item for option, ports in kinds.items() for port in ports for item in (option, str(port))]
    return [str(binary()), "serve", "--id", str(number), *ports, "--with-parent", str(os.getpid())]


def argv(command: str, targets: Sequence[str], **options: int | str) -> list[str]:
    """A client, `load`, `udp` or `stream`, to IP:PORT targets in turn; options as `vipload --help` names them."""
    named = [item for name, value in options.items() for item in (f"--{name}", str(value))]
    return [str(binary()), command, "--to", ",".join(targets), *named]
