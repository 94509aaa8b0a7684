"""The generator's own ceiling: what it reaches over loopback, where there is no network to wait for."""

from __future__ import annotations

import subprocess

import msgspec

from bench import load
from bench.load import LoadResult
from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns
from dataplanes.kernel.rtnl import Rtnl
from scenarios.journal import Journal

_PORT = 80
_MOST = 5000  # beyond, looking for a free port would be what is measured (bench.judge)


def ceiling(connections: int, concurrency: int) -> float:
    """Connections per second from one process to another in one namespace. Raises KernelRefused."""
    with Journal() as journal:
        name = f"{journal.run}-ceiling"
        journal.record("netns", name)
        netns.create(name)
        with Rtnl(name) as rtnl:
            rtnl.send([rtnl.link_set("lo", up=True)])
        with netns.inside(name):
            server = subprocess.Popen(load.serve_argv(1, tcp=[_PORT]), stdout=subprocess.PIPE)
        try:
            assert server.stdout
            server.stdout.readline()
            connections = min(connections, _MOST)
            sizes = {"connections": connections, "concurrency": concurrency, "warmup": connections // 10}
            with netns.inside(name):
                argv = load.argv("load", [f"127.0.0.1:{_PORT}"], **sizes)
                done = subprocess.run(argv, capture_output=True, check=False)
        finally:
            server.kill()
            server.communicate()
    if done.returncode:
        raise KernelRefused("the load generator failed over loopback", where=name, why=done.stderr.decode().strip())
    found = msgspec.json.decode(done.stdout, type=LoadResult)
    return found.ok / (found.elapsed_ns / 1e9)
