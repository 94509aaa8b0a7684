"""`bench inspect` as its user runs it: what the plane added is marked, and nothing else."""

from __future__ import annotations

import json

from tests.program.command import bench, soonest


def test_inspect_shows_what_the_plane_added() -> None:
    done = bench("inspect", "--dataplane", "ipvs-container", "--kernel", "guest")
    assert done.returncode == 0, done.stderr
    added = [line for line in done.stdout.splitlines() if line.startswith("+")]
    assert "+ -A POSTROUTING -d 10.0.0.0/24 -m ipvs --ipvs -j SNAT --to-source 10.0.0.5" in added
    assert added.count("+ -A OUTPUT -d 10.0.0.2/32 -j MARK --set-xmark 0x101/0xffffffff") == 4
    assert added.count("+     inet 10.0.0.2/32 scope global eth0") == 3
    assert added.count("+ FWM  257 rr") == 4

    gone = [line for line in done.stdout.splitlines() if line.startswith("-")]
    assert gone
    assert all(line.startswith("- net.ipv4.vs.") for line in gone), gone  # has another value
    told = bench("inspect", "--dataplane", "nft-lb", "--kernel", soonest("nft-lb"), "--json").stdout
    every = json.loads(told)["namespaces"]
    marks = {
        (each["kind"], section["command"], mark)
        for each in every
        for section in each["sections"]
        for mark, line in section["lines"]
        if mark != " "
    }
    assert ("lb", "nft list ruleset", "+") in marks
    assert ("lb", "ip address", "+") in marks
    # The plane has no iptables rule. Listing a table would create it, and table nat switches connection tracking on.
    assert not [each for each in marks if each[1].startswith("iptables")]
    assert not [each for each in marks if each[0] == "container"]
    lb = next(each for each in every if each["kind"] == "lb")
    lines = {line.strip(): mark for section in lb["sections"] for mark, line in section["lines"]}
    assert (lines["inet 127.0.0.1/8 scope host lo"], lines["net.ipv4.ip_forward = 1"]) == (" ", " ")


def test_inspect_of_no_plane_marks_nothing() -> None:
    """Links that came up in the meantime were taken for the plane's."""
    done = bench("inspect", "--dataplane", "direct", "--kernel", soonest("direct"))
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith(("+", "-"))]


def test_inspect_shows_where_bpf_programs_are() -> None:
    done = bench("inspect", "--dataplane", "ebpf-tc", "--kernel", soonest("ebpf-tc"))
    assert done.returncode == 0, done.stderr
    added = [line for line in done.stdout.splitlines() if line.startswith("+") and "_container" in line]
    # Linux 6.6 and later have TCX, which older ones do as classifiers.
    assert sorted(line.replace(": tcx ", ": bpf ") for line in added) == [
        "+ veth0 egress: bpf to_container",  # one node has one container, the other has three
        "+ veth0 egress: bpf to_container",
        "+ veth0 ingress: bpf from_container",
        "+ veth0 ingress: bpf from_container",
        *(f"+ veth{n} {way}" for n in (1, 2) for way in ("egress: bpf to_container", "ingress: bpf from_container")),
    ]
