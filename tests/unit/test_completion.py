"""The words that a shell completes, and the lines of `bench list` for them."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from bench.cli import listing
from bench.cli.main import main
from bench.kernels import choice
from dataplanes import catalog, peers, platforms


def completed(*words: str) -> list[str]:
    """Return what may stand in the place of the last word."""
    *arguments, incomplete = words
    found = ShellComplete(main, {}, "bench", "_BENCH_COMPLETE").get_completions(list(arguments), incomplete)
    return [each.value for each in found if each.type == "plain"]


@pytest.mark.parametrize(
    ("words", "has"),
    [
        (("run", "--dataplane", "ipvs-l"), {"ipvs-lb", "ipvs-lb-dsr"}),
        (("run", "--dataplane", "direct,nft-o"), {"direct,nft-overlay", "direct,nft-overlay@random"}),
        (("run", "-d", "ipvs-container@1.12"), {"ipvs-container@1.12.0", "ipvs-container@1.12.6-tweaked"}),
        (("run", "-d", "nft-lb+"), {"nft-lb+scheduler=rr", "nft-lb+scheduler=random"}),
        (("run", "-d", "ipvs-container@1.13+ic"), {"ipvs-container@1.13+icmp=true"}),
        (("run", "-d", "ebpf-tc+conn"), {"ebpf-tc+connections="}),
        (("run", "-d", "swarm@2"), {"swarm@20.10", "swarm@26.1"}),
        (("run", "-d", "ovn"), {"ovn@23.03"}),
        (("run", "-d", "swarm@26.1+"), {"swarm@26.1+servers=cgroup", "swarm@26.1+servers=namespace"}),
        (("run", "--workload", "crr,st"), {"crr,stream"}),
        (("matrix", "-k", "change.drain"), {"change.drain", "change.drain-udp"}),
        (("run", "--kernel", "debian-6"), {"debian-6.1", "debian-6.12"}),
        (("matrix", "--kernel", "debian-6.1,gue"), {"debian-6.1,guest", "debian-6.1,guests"}),
        (("lab", "--scenario", "s"), {"seed", "scale"}),
        (("list", "w"), {"workloads"}),
        (("list", "m"), {"metrics"}),
        (("compare", "--fail-on", "instructions_per_c"), {"instructions_per_connection:"}),
        (("compare", "--fail-on", "wors"), {"worse"}),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_names_are_completed(words: tuple[str, ...], has: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = {"host": "6.18", "debian-6.1": "6.1.0", "debian-6.12": "6.12.1"}
    monkeypatch.setattr(choice, "list_kernels", lambda: kernels)
    monkeypatch.setattr("bench.kernels.list_kernels", lambda: kernels)
    found = set(completed(*words))
    assert has <= found
    assert all(each.startswith(words[-1]) for each in found)


def test_planes_are_listed_with_what_can_be_chosen_about_them() -> None:
    rows = {row["name"]: row for row in listing.rows("dataplanes")}
    assert list(rows) == [*catalog.names(), *peers.NAMES, *platforms.known()]
    assert (rows["direct"]["variants"], rows["direct"]["knobs"]) == ({}, [])
    assert rows["ipvs-container"]["default"] == "1.12.6-tweaked"
    assert rows["ipvs-container"]["variants"]["17.09"]["vip_on"] == "lo"
    knobs = {knob["name"]: knob for knob in rows["ipvs-lb"]["knobs"]}
    assert (knobs["weight0"]["values"], knobs["weight0"]["default"]) == ("true|false", "true")
    lines = list(listing.lines("dataplanes"))
    assert [line.split()[0] for line in lines[: len(rows)]] == list(rows)
    assert any("1.12.6-tweaked (default)" in line for line in lines)
    assert any(line.strip().startswith("scheduler=random|rr  ") for line in lines)
