"""A profile by bcc: the time of kernel functions, and the number of calls of selected functions.

Time is sampled by the CPU clock; under the instruction clock that is exactly every so many instructions. Calls are
counted by kprobes. Both cost time, so a profiled trial does not count for the figures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.documents import Function, Profile
from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel import distribution

_PERIOD_NS = 50_000
_KPROBES = "/sys/bus/event_source/devices/kprobe"
"""It exists in a kernel with kprobes (since Linux 4.17, kernel/events/core.c, perf_kprobe)."""
_MOST = 40
_COUNTED = (
    "ip_vs_in_hook",
    "ip_vs_out_hook",
    "ip_vs_schedule",
    "ip_vs_conn_in_get",
    "ip_vs_nat_xmit",
    "ip_vs_dr_xmit",
    "ipt_do_table",
    "nf_conntrack_in",
    "nf_conntrack_confirm",
    "nf_hook_slow",
    "nf_nat_inet_fn",
    "nf_nat_manip_pkt",
    "nft_do_chain",
    "br_handle_frame",
    "br_nf_pre_routing",
    "ip_rcv",
    "ip_forward",
    "ip_local_out",
    "vxlan_xmit",
    "veth_xmit",
    "cls_bpf_classify",
    "tcf_classify",
    "__cgroup_bpf_run_filter_sock_addr",
)
"""These are the names of Linux 6.1 to 6.18. Functions that a kernel does not have are left out."""
_PARTS: dict[str, tuple[str, ...]] = {
    name: tuple(prefixes.split())
    for name, prefixes in msgspec.toml.decode((Path(__file__).parent / "parts.toml").read_text("utf-8")).items()
}
_SOURCE = """
#include <uapi/linux/bpf_perf_event.h>
BPF_HASH(hits, u64, u64, 16384);
BPF_ARRAY(calls, u64, 64);
int sample(struct bpf_perf_event_data *ctx)
{
	u64 ip = PT_REGS_IP(&ctx->regs);
	hits.increment(ip);
	return 0;
}
"""
_COUNTER = "int called_%d(struct pt_regs *ctx) { calls.increment(%d); return 0; }\n"


class Profiler:
    """A profiler of the whole kernel: it samples time while `sampling`, and counts calls while `counting`.

    It does not do both at once. A kprobe costs more than many of the functions it counts, and would be most of the
    samples.
    """

    def __enter__(self) -> Profiler:
        """Compile the programs.

        Raises Prerequisite without bcc, and BenchError if the kernel does not permit profiling.
        """
        try:
            with distribution.modules():
                from bcc import BPF, PerfSWConfig, PerfType  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise Prerequisite("bcc's Python binding is not installed", fix="apt-get install python3-bpfcc") from error
        self._clock = {"ev_type": PerfType.SOFTWARE, "ev_config": PerfSWConfig.CPU_CLOCK}
        source = _SOURCE + "".join(_COUNTER % (n, n) for n in range(len(_COUNTED)))
        with _translated():
            self._bpf: Any = BPF(text=source, cflags=["-w"])
        return self

    def __exit__(self, *exc: object) -> None:
        self._bpf.cleanup()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample the running functions during the block."""
        with _translated():
            self._bpf.attach_perf_event(**self._clock, fn_name="sample", sample_period=_PERIOD_NS)
        try:
            yield
        finally:
            self._bpf.detach_perf_event(**self._clock)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the calls of the selected functions during the block, as far as this kernel permits it."""
        there = _symbols() if os.path.exists(_KPROBES) else set()  # without, bcc writes a line for each to stderr
        self._counted = [(n, name) for n, name in enumerate(_COUNTED) if name in there and self._count(n, name)]
        try:
            yield
        finally:
            for _, name in self._counted:
                self._bpf.detach_kprobe(event=name)

    def _count(self, number: int, name: str) -> bool:
        """Count a function's calls. Return False if the kernel has no kprobes, or none for this function."""
        try:
            self._bpf.attach_kprobe(event=name, fn_name=f"called_{number}")
        except Exception:  # bcc raises bare Exceptions
            return False
        return True

    def profile(self, operations: int) -> Profile:
        """Return the profile. Counted calls are per operation."""
        hits: Counter[str] = Counter()
        for ip, count in self._bpf["hits"].items():
            hits[_symbol(self._bpf.ksym(ip.value).decode())] += count.value
        total = sum(hits.values()) or 1
        calls = {name: self._bpf["calls"][number].value / (operations or 1) for number, name in self._counted}
        named = dict.fromkeys(
            [*(name for name, _ in hits.most_common(_MOST)), *(name for name, n in calls.items() if n)]
        )
        parts: Counter[str] = Counter()
        for name, count in hits.items():
            parts[part(name)] += count
        return Profile(
            {name: count / total for name, count in parts.most_common()},
            [Function(name, part(name), hits[name] / total, calls.get(name)) for name in named],
        )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # bcc raises bare Exceptions
        raise BenchError("cannot profile", why=str(error), fix="root and kernel headers are needed") from error


def _symbols() -> set[str]:
    with open("/proc/kallsyms", encoding="ascii") as file:
        return {line.split()[2] for line in file}


def _symbol(name: str) -> str:
    """Return a function's name without the compiler's suffixes.

    An address that is no kernel symbol belongs to the programs.
    """
    if name.startswith("bpf_prog_"):
        return "bpf_prog"
    return "(programs)" if name in ("[unknown]", "") else name.partition(".")[0]


def part(name: str) -> str:
    """Return the part of the kernel that a function belongs to, by its name."""
    if name == "(programs)":
        return "user space"
    return next((title for title, prefixes in _PARTS.items() if name.startswith(prefixes)), "other")
