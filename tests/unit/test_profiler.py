"""Kernel functions belong to parts of the kernel by their names."""

from __future__ import annotations

import pytest

from bench.inside.measure.profiler import part


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("ip_vs_in_hook", "IPVS"),
        ("ip_rcv", "IP and UDP"),
        ("nft_do_chain", "nftables"),
        ("nf_nat_inet_fn", "NAT"),
        ("nf_conntrack_in", "conntrack"),
        ("nf_hook_slow", "netfilter hooks"),
        ("bpf_prog", "BPF"),
        ("br_handle_frame", "bridge"),
        ("skb_clone", "memory"),
        ("__skb_flow_dissect", "devices"),
        ("(programs)", "user space"),
        ("no_such_function", "other"),
    ],
)
def test_the_first_prefix_decides(function: str, expected: str) -> None:
    assert part(function) == expected
