"""The facts that a figure depends on: kernel, CPU, settings, versions. They are collected where the trials run."""

from __future__ import annotations

import glob
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dataplanes.kernel.procfs import field
from scenarios import losses

_VERSIONS = {
    "nft": ("nft", "--version"),
    "iptables": ("iptables-legacy", "--version"),
    "ipvsadm": ("ipvsadm", "--version"),
    "iproute2": ("ip", "-V"),
}
_SYSCTLS = (
    *("net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_buckets", "net.ipv4.ip_local_port_range"),
    losses.LIMIT,
)


def collect(clock: str) -> dict[str, Any]:
    """Return facts about the running kernel and machine. Facts that cannot be read are left out."""
    return {
        "kernel": platform.release(),
        "kernel_version": platform.version(),
        "machine": platform.machine(),
        "clock": clock,
        "cpu": field("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "clocksource": _content("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "mitigations": {
            os.path.basename(path): _content(path)
            for path in sorted(glob.glob("/sys/devices/system/cpu/vulnerabilities/*"))
        },
        "cmdline": _content("/proc/cmdline"),
        "memory_kb": field("/proc/meminfo", "MemTotal"),
        "load": _content("/proc/loadavg"),
        "python": platform.python_version(),
        "versions": versions(),
        "sysctl": {key: _content("/proc/sys/" + key.replace(".", "/")) for key in _SYSCTLS},
    }


def versions() -> dict[str, str]:
    """Return the versions of the tools that planes are programmed with."""
    return {name: _last_line(argv) for name, argv in _VERSIONS.items()} | {"bcc": _bcc()}


def _bcc() -> str:
    """Return bcc's version from its metadata, because importing it would load its compiler."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bcc")
    except PackageNotFoundError:
        return ""


_SETTINGS = tuple(
    f"/proc/sys/net/{pattern}"
    for pattern in (
        *("ipv4/vs/*", "netfilter/nf_conntrack_*", "bridge/bridge-nf-*", "ipv4/ip_forward"),
        *(
            f"ipv4/conf/{link}/{name}"
            for link in ("all", "br0", "eth0")
            for name in ("accept_local", "arp_announce", "arp_ignore", "send_redirects")
        ),
    )
)
"""The settings of IPVS, of connection tracking, of the bridge's netfilter hooks, of routing and of the interfaces."""


def settings() -> dict[str, str]:
    """Return the settings of the current network namespace that a plane may change, and its links' offloads."""
    found = {}
    for pattern in _SETTINGS:
        for path in sorted(glob.glob(pattern)):
            value = _content(path)
            if value:
                found[path.removeprefix("/proc/sys/").replace("/", ".")] = value
    return found | _offloads()


def _offloads() -> dict[str, str]:
    """Return the offloads of the current network namespace's links, with the names of `ethtool -k`.

    The keys are the links' names without their number: `offload.veth`. If such links differ, the value has every set.
    """
    # The import takes a second under emulation, and most trials do not need it.
    from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice

    found: dict[str, set[str]] = {}
    link = IoctlEthtool()
    for _, name in socket.if_nameindex():
        link.change_ifname(name)
        with suppress(NoSuchDevice):  # it is gone since it was listed
            flags = " ".join(sorted(flag for flag, on in link.get_offload_flags().items() if on))
            found.setdefault(name.rstrip("0123456789"), set()).add(flags)
    link.close()
    return {f"offload.{name}": " | ".join(sorted(ways)) for name, ways in found.items()}


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return " ".join(file.read().split())
    except OSError:
        return ""


def _last_line(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    if done.returncode:  # ipvsadm tells its version only if the kernel has IPVS
        return ""
    # The lines before the last one are ipvsadm's messages about modprobe.
    return (done.stdout or done.stderr).strip().rpartition("\n")[2]
