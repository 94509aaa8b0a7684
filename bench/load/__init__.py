"""The load generator, which is a small C program of a server and clients: its command lines and its results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct


class Counted(Struct, frozen=True):
    """The kernel's counts while a client ran."""

    elapsed_ns: int
    syn_retransmits: int
    retransmits: int
    cpu_ns: dict[str, int]  # of the client process, by user and system
    stat_ns: dict[str, int]  # from /proc/stat, because softirq work is in no process's account


class LoadResult(Counted, frozen=True):
    """The result of `load`. `figures` has exact latencies by their names in bench.documents.metrics."""

    connections: int
    concurrency: int
    threads: int
    ok: int
    requests: int  # requests that were answered
    stalled: int  # connections that took more than a second, and were answered
    errors: dict[str, int]  # by class, with every class
    backends: dict[str, int]  # answered requests by server id
    figures: dict[str, float]


class DatagramResult(Counted, frozen=True):
    """The result of `udp`. `figures` has exact latencies by their names in bench.documents.metrics.

    They are those of a flow's first datagram, which is measured only with fresh flows, and those of all other
    datagrams.
    """

    exchanges: int
    concurrency: int
    ok: int
    lost: int
    late: int
    refused: int
    backends: dict[str, int]
    figures: dict[str, float]


class StreamResult(Counted, frozen=True):
    """The result of `stream`."""

    bytes: int


class GapResult(Struct, frozen=True):
    """The result of `gap`: the longest time between two answers."""

    elapsed_ns: int
    answers: int
    lost: int  # datagrams without an answer in time
    longest_ns: int


def binary() -> Path:
    """Return the path of the compiled program (see bench.native)."""
    from bench import native  # imported only here: in the guest the program is already compiled

    return native.binary("vipload")


NUMBERS = 255
"""The largest number that a server answers with, a byte."""


def serve_argv(
    number: int, *, tcp: Sequence[int] = (), udp: Sequence[int] = (), udp_as_asked: Sequence[int] = ()
) -> list[str]:
    """Return the command of a server that answers with `number` (1 to NUMBERS).

    It ends with this process, which must start it.
    """
    kinds = {"--tcp": tcp, "--udp": udp, "--udp-as-asked": udp_as_asked}
    ports = [item for option, ports in kinds.items() for port in ports for item in (option, str(port))]
    return [str(binary()), "serve", "--id", str(number), *ports, "--with-parent", str(os.getpid())]


def argv(command: str, targets: Sequence[str], **options: int | str) -> list[str]:
    """Return the command of a client: `load`, `udp`, `stream` or `gap`.

    Targets are IP:PORT; `vipload --help` names the options.
    """
    named = [item for name, value in options.items() for item in (f"--{name}", str(value))]
    return [str(binary()), command, "--to", ",".join(targets), *named]
