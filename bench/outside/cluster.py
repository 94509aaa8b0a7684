"""Lanes on the workers of a `dask.distributed` cluster, for `--cluster tcp://HOST:PORT`.

dask chooses the worker of each share, and gives the share of a lost worker to another one. `bench/outside/worker.py`
carries a share out. Figures of several machines belong to one run only by the instruction clock, and only if the
program, the kernel and the tools are the same on all machines. That is checked before the first trial, and with each
share. dask is imported only here and when it is used.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import msgspec

from bench.documents import Job
from bench.kernels import Kernel
from bench.outside import provenance
from bench.outside.dealing import Assignment, Dealing
from bench.outside.lane import Elsewhere, Order
from bench.outside.lanes import Here, Lanes, Share, Told, make_all_ready
from dataplanes import files
from dataplanes.errors import Prerequisite, Usage
from scenarios.journal import Journal

_T = TypeVar("_T")
LOCAL = "local"
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:[0-9]+")
_CONNECTS = 10.0
"""The scheduler must answer within so many seconds, and have a worker after so many more."""
_MOST = 16 << 20
_ALIKE = ("python", "dask", "distributed", "cloudpickle", "msgpack", "tornado")
"""The versions of these must be equal, or the scheduler, the workers and the command misunderstand each other."""
_INSTALL = "pip install 'vip-bench[cluster]'"
_Known = Mapping[str, Elsewhere]
"""Knowledge that lanes on other machines need, by the kernel's name."""


class Cluster(Lanes):
    """Guests on the workers of a cluster. A worker runs one in each of its threads; `jobs` limits all of them together.

    `address` is the scheduler's, or `local` for a cluster that this process starts and ends.
    """

    def __init__(self, address: str, jobs: int | None = None) -> None:
        """Raise Usage for an address that cannot be read, and Prerequisite without dask.distributed."""
        if address != LOCAL and not _ADDRESS.fullmatch(address):
            fix = "tcp://HOST:PORT, tls://HOST:PORT or local"
            raise Usage("cannot read the scheduler's address", where=address, fix=fix)
        _distributed()
        self._address = address
        self._jobs = jobs
        self._threads = 0

    def clock(self, asked: str | None) -> str:
        if asked == "wall":
            why = "a figure by the wall clock depends on the machine"
            raise Usage("the wall clock cannot be used on a cluster", why=why, fix="use --clock instructions")
        return "instructions"

    def count(self, kernel: Kernel, units: int, kernels: int = 1, timed: bool = True) -> int:
        if not self._threads:
            if self._address == LOCAL:
                self._threads = Here().count(kernel, 1000)
            else:
                with _connected(self._address) as client:
                    self._threads = sum(client.nthreads().values())
        return max(1, min(self._threads // kernels, (self._jobs or self._threads) // kernels, units))

    def deal(self, kernel: Kernel, planes: Sequence[_T], kernels: int = 1, timed: bool = True) -> list[list[_T]]:
        return [[each] for each in planes]  # a worker that is early gets the next one

    def run(self, shares: Sequence[Share], take: Told, timeout: float | None = None) -> None:
        if any(share.job.pause for share in shares):
            raise Usage("no shell can be opened on a cluster", fix="run without --pause-on-fail, or without --cluster")
        deadline = time.monotonic() + timeout if timeout else None
        make_all_ready(shares)
        elsewhere = _elsewhere(shares)
        with ExitStack() as stack:
            address = self._address
            if address == LOCAL:
                address = stack.enter_context(_local(self.count(shares[0].kernel, len(shares))))
            client = stack.enter_context(_connected(address))
            demand_alike(client.get_versions(packages=["vip-bench"]))
            Dealing(client, _rehearsals(client, shares, elsewhere), take, deadline).run()
            Dealing(client, _assignments(shares, elsewhere), take, deadline, self._jobs).run()


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield a client of the cluster, which has a worker. Raises Prerequisite."""
    with _client(address) as client:
        try:
            client.wait_for_workers(1, timeout=_CONNECTS)
        except _distributed().TimeoutError as error:
            fix = f"start one with `./run dask worker {address} --nthreads 1`"
            raise Prerequisite("the scheduler has no worker", where=address, fix=fix) from error
        yield client


def _client(address: str) -> Any:
    """Connect to a scheduler. Raises Prerequisite."""
    distributed = _distributed()
    what, fix = "cannot reach the scheduler", "start one with `./run dask scheduler` and name the address it prints"
    try:
        security = distributed.Security()
        if address.startswith("tls:") and security.get_connection_args("client")["ssl_context"] is None:
            why, fix = "dask's configuration names no certificates", "see docs/cluster.md"
            raise Prerequisite(what, where=address, why=why, fix=fix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", distributed.versions.VersionMismatchWarning)  # see demand_alike
            return distributed.Client(address, timeout=_CONNECTS, set_as_default=False, security=security)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise Prerequisite(what, where=address, why=str(error).partition("\n")[0], fix=fix) from error


@contextmanager
def _local(threads: int) -> Iterator[str]:
    """Start a scheduler and a worker on loopback, and yield the address.

    They are threads of this process. So they end with it, and all that they start, too.
    """
    with Journal() as journal:
        started = _distributed().LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=journal.scratch("dask"),
        )
        with started:
            yield started.scheduler_address


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        why = "--cluster deals work to its workers"
        raise Prerequisite("dask.distributed is not installed", why=why, fix=_INSTALL) from error
    # dask logs each lost connection with a traceback. The errors of this module tell what follows from one.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return distributed


def demand_alike(versions: Mapping[str, Any]) -> None:
    """Raise Prerequisite unless all workers have this program, and they and the scheduler the same dask as here.

    `versions` are as `Client.get_versions` returns them.
    """
    here = versions["client"]["packages"]
    asked: list[tuple[str, Any, tuple[str, ...]]] = [("scheduler", versions["scheduler"], _ALIKE)]
    asked += [(f"worker {address}", told, (*_ALIKE, "vip-bench")) for address, told in versions["workers"].items()]
    for where, told, names in asked:
        there = told["packages"]
        differing = [name for name in names if there.get(name) != here.get(name)]
        if differing:
            why = "; ".join(
                f"{name} is {_version(there, name)} there, and {_version(here, name)} here" for name in differing
            )
            fix = "start it with the same revision's `./run dask`, on the same release of the distribution"
            raise Prerequisite("the versions differ", where=where, why=why, fix=fix)


def _version(packages: Mapping[str, str | None], name: str) -> str:
    return (packages.get(name) or "missing").removesuffix(".final.0")


def _elsewhere(shares: Sequence[Share]) -> _Known:
    found = {}
    for kernel, job in _together(shares):
        identity = provenance.identity(kernel, job.selections)
        text = files.text(job.scenario, _MOST) if "/" in job.scenario else ""
        found[kernel.name] = Elsewhere(identity, text)
    return found


def _together(shares: Sequence[Share]) -> Iterator[tuple[Kernel, Job]]:
    """Yield each kernel with one job for all of its shares, which has one trial of each workload."""
    for kernel in {share.kernel.name: share.kernel for share in shares}.values():
        jobs = [share.job for share in shares if share.kernel.name == kernel.name]
        planes = {plane.name: plane for job in jobs for plane in job.selections}
        trials = {trial.workload: trial for job in jobs for trial in job.trials}
        yield kernel, Job(jobs[0].kind, jobs[0].scenario, [*planes.values()], [*trials.values()])


def _rehearsals(client: Any, shares: Sequence[Share], known: _Known) -> list[Assignment]:
    """Return what each worker does before the first trial: it makes all kernels ready, and compares itself."""
    orders = tuple(
        Order(kernel.name, kernel.clock, job, rehearsal=True, elsewhere=known[kernel.name])
        for kernel, job in _together(shares)
    )
    return [Assignment(f"worker {address}", "", orders, address) for address in client.nthreads()]


def _assignments(shares: Sequence[Share], known: _Known) -> list[Assignment]:
    found = []
    for share in shares:
        planes = ", ".join(each.name for each in share.job.selections)
        order = msgspec.structs.replace(share.order(None), elsewhere=known[share.kernel.name])
        found.append(Assignment(f"{planes} on {share.kernel.name}", share.kernel.name, (order,)))
    return found
