"""A rule of iptables is found by a place in the memory of its table."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from dataplanes.kernel import iptables
from dataplanes.kernel.iptables import Tables
from tests.lab.conftest import Labs

HEAD = 112  # the size of struct ipt_entry


def places(name: str, table: str) -> Iterator[int]:
    """Yield the place of each entry's target."""
    tables = Tables(name)
    blob = tables.blob(table)
    tables.close()
    at = 0
    while at < len(blob):
        target, following = struct.unpack_from("=HH", blob, at + 88)
        assert HEAD <= target < following
        yield at + target + 32
        at += following


@pytest.mark.lab
@pytest.mark.parametrize("plane", ["kube-iptables"])
def test_each_rule_is_found_by_the_place_of_its_target(labs: Labs, plane: str) -> None:
    node = labs(plane).fabric.host_netns("worker2")
    for table in ("nat", "filter"):
        known = [rule for rule in iptables.rules(node, table) if rule.startswith("-A ")]
        found = [iptables.rule_at(node, table, place) for place in places(node, table)]
        assert sorted(rule for rule in found if rule.startswith("-A ")) == sorted(known)
        assert len(known) > 5 or table != "nat"
