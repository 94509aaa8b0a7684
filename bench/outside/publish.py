"""The command `bench publish`: it makes the data set for the report and the answer, and goes on after an interruption.

Each step writes its document, and is skipped as long as that exists. A step that is cut short goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from dataplanes import catalog, peers, platforms
from dataplanes.errors import BenchError
from dataplanes.selection import DIRECT, balances, title


class Step(Struct, frozen=True):
    """A document of the data set, and the command that makes it, without the document's path.

    A step `by_time` is done with those of its planes that can run on this machine's own kernel. It is left out if there
    is none.
    """

    document: str
    arguments: tuple[str, ...]
    by_time: tuple[str, ...] = ()


_PROGRAMMINGS = ("iptables", "map", "port", "1.36", "one-map")
"""The variants that are measured wherever there are any: ways to program IPVS, layouts of kube-proxy.

Each plane has its default besides.
"""
_MORE = ("ebpf-redirect+every=true",)


def _programmed(programmings: Sequence[str] = ()) -> list[str]:
    """Return every plane in its default and in these programmings, named with its variant: defaults may change."""
    found = []
    for plane in catalog.names()[1:]:
        recipe = catalog.recipe(plane)
        variants = dict.fromkeys([recipe.default, *(each for each in programmings if each in recipe.variants)])
        found += [title(plane, plane, each) for each in variants]
    return [DIRECT, *found]


_FIRST, _KERNEL = ("--kernel", "debian-6.1"), ("--kernel", "debian-6.12")
_KERNELS = ("--kernel", f"{_FIRST[1]},{_KERNEL[1]}")
_PLANES = [*_programmed(_PROGRAMMINGS), *_MORE]
_ALL, _COMPARED = ("--dataplane", "all"), ("--dataplane", ",".join(_PLANES))
_SCALED = [*_programmed(), "ipvs-container@map"]
_MANY = [DIRECT, *(each for each in _PLANES if each not in _SCALED and each != "kube-nftables@1.36")]
"""What scale leaves out, but for the layout that programs chains for each of many services."""
_CLOCK = (*_KERNEL, "--clock", "instructions")
_TIMED = ("--kernel", "host", "--clock", "wall", "--precision", "2", "--profile")
_GAPS = ("--kernel", "host", "--clock", "wall", "--workload", "gap", "--services", "1000,10000", "--repeat", "3")
_STEADY = (
    *("ipvs-container@map", "ipvs-lb@map", "ipvs-overlay@map"),
    *("nft-container", "nft-lb", "nft-overlay", "nft-bridge", "ebpf-redirect", "kube-nftables@one-map"),
)
"""Planes of each mechanism with which ten thousand services, and one more, do not take minutes."""
_SCALE = ("run", "--dataplane", ",".join(_SCALED), *_CLOCK, "--scenario", "scale")
_FEW_AND_MANY = ("--scenario", "scale", "--workload", "crr", "--services", "1,10000", "--repeat", "3")
_LARGE = ("--scenario", "scale", "--workload", "crr,program", "--services", "50000", "--repeat", "1")
_CROWDED = ("--scenario", "scale", "--workload", "crr", "--backends", "1000", "--repeat", "1")
"""A guest needs minutes to make a thousand containers, so a few planes stand for all of their mechanism."""
_ROOMY = ",".join(f"{name}+services=65536+backends=262144" for name in ("ebpf-socket", "ebpf-tc", "ebpf-redirect"))
"""The planes whose tables hold too few backends for fifty thousand services, with more room."""
_FAR = ("--scenario", "matrix", "--to", "lone")
"""A service whose only backend is on another node than the client."""
_TRAFFIC = "crr-rst,open,rr,udp,first,stream,churn"
_PROGRAMS = [each for each in peers.NAMES if each != "haproxy"]
"""The peers that were observed on the kernels of guests. HAProxy was not yet: a busy machine is slow at its reloads."""
_CONTAINERS = [each for each in platforms.known().values() if len(each.servers) > 1]
"""The platforms that have containers. What these add to a cost is measured, and our lab is held against them."""
_PLATFORMS = {
    f"{each.name}@{version}": _FIRST if each in _CONTAINERS else _KERNELS if made_of.alone else ("--kernel", "host")
    for each in platforms.known().values()
    for version, made_of in each.versions.items()
}
_PLATFORM_COSTS = [f"{each.name}@{each.default}" for each in _CONTAINERS]
_OUTSIDE = [f"{each.name}@{each.default}+servers={place}" for each in _CONTAINERS for place in each.servers[1:]]
_OUTSIDE_CONTAINERS = ("--dataplane", ",".join(_OUTSIDE), "--precision", "1")
"""What is held against them and against our lab, to tell what containers add: some percent. A round takes minutes."""
_IMITATIONS = ("--dataplane", ",".join(each.imitates for each in _CONTAINERS), "--scenario", "docker")
"""What they are held against, on nodes as their daemons leave them."""
_OVN = f"ovn@{platforms.known()['ovn'].default},{platforms.known()['ovn'].imitates}"
STEPS = (
    Step("matrix.json", ("matrix", *_COMPARED, *_KERNELS, "--output")),
    Step("connections.json", ("run", *_COMPARED, *_CLOCK, "--workload", "crr,others", "--profile", "--output")),
    Step("traffic.json", ("run", *_ALL, *_CLOCK, "--repeat", "3", "--workload", _TRAFFIC, "--output")),
    Step("scale.json", (*_SCALE, "--repeat", "3", "--workload", "crr,others", "--output")),
    Step("services.json", ("run", "--dataplane", ",".join(_MANY), *_CLOCK, *_FEW_AND_MANY, "--output")),
    Step("programming.json", (*_SCALE, "--workload", "program", "--output")),
    Step("large.json", ("run", "--dataplane", f"{DIRECT},{_ROOMY}", *_CLOCK, *_LARGE, "--output")),
    Step("backends.json", ("run", "--dataplane", "direct,ipvs-lb@map,nft-lb,ebpf-tc", *_CLOCK, *_CROWDED, "--output")),
    Step("wall.json", ("run", *_TIMED, "--output"), by_time=tuple(_PLANES)),
    Step("gap.json", ("run", *_GAPS, "--output"), by_time=_STEADY),
    Step("readme/first.json", ("run", "--dataplane", "ipvs-container", "--output")),
    *(Step(f"peers/{each}.json", ("matrix", "--dataplane", each, *_KERNELS, "--output")) for each in _PROGRAMS),
    *(
        Step(f"peers/{each}.json", ("matrix", "--dataplane", each, *kernels, "--output"))
        for each, kernels in _PLATFORMS.items()
    ),
    Step("peers/cost-of-programs.json", ("run", "--dataplane", "nft-lb,peers", *_CLOCK, "--output")),
    Step("peers/cost-of-platforms.json", ("run", "--dataplane", ",".join(_PLATFORM_COSTS), *_CLOCK, "--output")),
    Step("peers/cost-outside-containers.json", ("run", *_OUTSIDE_CONTAINERS, *_CLOCK, "--output")),
    Step("peers/cost-of-ovn.json", ("run", "--dataplane", _OVN, *_CLOCK, "--output")),
    Step("peers/cost-of-imitations.json", ("run", *_IMITATIONS, *_CLOCK, "--output")),
    *(
        Step(f"planes/{name}.svg", ("trace", "--dataplane", name, *_FAR, *_KERNEL, "--svg"))
        for name in catalog.names()
        if balances(name)
    ),
)


def documents(directory: Path) -> list[str]:
    """Return the documents of the data set that exist, in the order of their names.

    Those in directories are no part of the planes' comparison.
    """
    paths = sorted(directory / step.document for step in STEPS if "/" not in step.document)
    return [str(path) for path in paths if path.exists() and path.stat().st_size]


_FAILED = 1
"""The exit code of a command whose document tells what failed."""

Runnable = Callable[[Sequence[str]], Sequence[str]]
"""A function that returns the names of those planes that can run on this machine's own kernel."""


def publish(
    directory: Path,
    tell: Callable[[str], None],
    runnable: Runnable,
    jobs: int | None = None,
    cluster: str | None = None,
) -> None:
    """Make the missing documents, in `jobs` guests at most, here or on a cluster.

    Raises BenchError if a step's command writes no document, or is interrupted.
    """
    limits = {"--jobs": str(jobs or ""), "--cluster": cluster or ""}
    options = [word for option, value in limits.items() if value for word in (option, value)]
    for step in STEPS:
        path = directory / step.document
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            tell(f"{step.document}: there already")
            continue
        planes = [*runnable(step.by_time)] if step.by_time else []
        if step.by_time and not any(map(balances, planes)):
            tell(
                f"{step.document}: left out, because no data plane can run on this machine's own kernel (bench doctor)"
            )
            continue
        command, *arguments = [*step.arguments[:1], *_named(planes), *step.arguments[1:]]
        tell(f"{step.document}: bench {' '.join([command, *arguments])}")
        guests = command != "trace" and not step.by_time
        argv = (sys.executable, "-m", "bench", command, *(options if guests else ()), *arguments, str(path))
        code = subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode
        ended = f"bench {command} ended with {code}"
        if code and (code != _FAILED or not path.exists()):
            raise BenchError(f"{step.document} was not made", why=ended)
        if code:
            tell(f"{step.document}: {ended}; the document tells what failed")


def _named(planes: Sequence[str]) -> list[str]:
    """Return the option that names planes, if there are any."""
    return ["--dataplane", ",".join(planes)] if planes else []
