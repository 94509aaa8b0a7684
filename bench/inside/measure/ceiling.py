"""The rate that the generator reaches over loopback, without any network. It is the limit of the generator itself."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack

import msgspec

from bench import load
from bench.load import LoadResult
from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns
from dataplanes.kernel.rtnl import Rtnl
from scenarios.journal import Journal

_PORT = 80
_MOST = 5000  # beyond this the search for a free port would dominate (bench.analysis.judge)


def ceiling(connections: int, concurrency: int) -> float:
    """Return the connections per second in one namespace, with a server for each processor.

    There are as many servers as the generator has threads. Raises KernelRefused if the generator fails.
    """
    with Journal() as journal:
        name = f"{journal.run}-ceiling"
        journal.record("netns", name)
        netns.create(name)
        with Rtnl(name) as rtnl:
            rtnl.send([rtnl.link_set("lo", up=True)])
        ports = range(_PORT, _PORT + len(os.sched_getaffinity(0)))
        with netns.inside(name), ExitStack() as stack:
            for number, port in enumerate(ports):
                server = subprocess.Popen(load.serve_argv(number + 1, tcp=[port]), stdout=subprocess.PIPE)
                stack.callback(server.communicate)
                stack.callback(server.kill)
                assert server.stdout
                server.stdout.readline()
            connections = min(connections, _MOST)
            sizes = {"connections": connections, "concurrency": concurrency, "warmup": connections // 10}
            argv = load.argv("load", [f"127.0.0.1:{port}" for port in ports], **sizes)
            done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        raise KernelRefused("the load generator failed over loopback", where=name, why=done.stderr.decode().strip())
    found = msgspec.json.decode(done.stdout, type=LoadResult)
    return found.ok / (found.elapsed_ns / 1e9)
