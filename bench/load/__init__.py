"""The load generator: a small C program, server and client; here its command lines and its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct


class LoadResult(Struct, frozen=True):
    """What one client run measured. Latencies: mean, min, p50, p90, p99, p99.9, max in nanoseconds, exact."""

    connections: int
    concurrency: int
    elapsed_ns: int
    ok: int
    errors: dict[str, int]  # by class, every class named
    backends: dict[str, int]  # connections answered, by server id
    connect_ns: dict[str, float]
    request_ns: dict[str, float]
    syn_retransmits: int
    cpu_ns: dict[str, int]  # of the client process
    stat_ns: dict[str, int]  # /proc/stat over the run: softirq work is in no process's account


def binary() -> Path:
    """The compiled program; see bench.native."""
    from bench import native  # only here: what runs in the guest finds it compiled

    return native.binary("vipload")


def serve_argv(number: int, *, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> list[str]:
    """A server that answers with `number` (1 to 255) and ends with its parent."""
    ports = [item for name, ports in (("--tcp", tcp), ("--udp", udp)) for port in ports for item in (name, str(port))]
    return [str(binary()), "serve", "--id", str(number), *ports, "--with-parent"]


def load_argv(targets: Sequence[str], *, connections: int, concurrency: int, warmup: int = 0) -> list[str]:
    """A client that makes this many connections to IP:PORT targets in turn."""
    sizes = ["--connections", str(connections), "--concurrency", str(concurrency), "--warmup", str(warmup)]
    return [str(binary()), "load", "--to", ",".join(targets), *sizes]


def parse(output: bytes) -> LoadResult:
    """The client's output."""
    return msgspec.json.decode(output, type=LoadResult)
