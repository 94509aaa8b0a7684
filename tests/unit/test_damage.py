"""No mutant is lost in silence: one is left out only where its check does not hold on the plane as it is."""

from __future__ import annotations

from tests.lab.mutants.lost import LOST
from tests.lab.mutants.told import TOLD
from tests.lab.test_mutation import EVERY, mutants


def test_a_mutant_is_left_out_only_where_its_check_does_not_hold() -> None:
    left = {(plane, name) for plane in EVERY for name in TOLD if name not in mutants(plane)}
    stays = "a removed service stays"
    assert left == {
        ("ipvs-container", "draining is ignored"),  # Docker 1.12 drains none
        *((plane, stays) for plane in ("kube-iptables", "kube-nftables", "kube-nftables@one-map", "moby-nftables")),
        ("moby-nftables", "the last backend stays"),  # without a backend it leads to what listens in its namespace
    }
    assert [(name, plane) for name, (_, planes) in LOST.items() for plane in planes if name not in mutants(plane)] == []


def test_each_plane_has_eight_mutants_or_more() -> None:
    assert {plane: len(mutants(plane)) for plane in EVERY if len(mutants(plane)) < 8} == {}
