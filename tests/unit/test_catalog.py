"""What `--dataplane` accepts, and how it answers what it does not."""

from __future__ import annotations

import pytest

from dataplanes import catalog
from dataplanes.errors import Usage
from dataplanes.requirements import Feature


def test_all_names_every_plane_once() -> None:
    assert [each.name for each in catalog.select("all")] == list(catalog.SUMMARIES)
    assert [each.name for each in catalog.select("direct,direct")] == ["direct"]


def test_default_variant_is_1_12_6_with_the_three_sysctls() -> None:
    (selection,) = catalog.select("ipvs-container")
    assert selection.variant == "1.12.6-tweaked"
    assert selection.knobs == {
        "snat": True,
        "vip_on": "eth0",
        "icmp": False,
        "weight0": False,
        "conntrack": None,
        "conn_reuse_mode": 0,
        "expire_nodest_conn": 1,
        "expire_quiescent_template": 1,
    }


@pytest.mark.parametrize(
    ("variant", "differs"),
    [
        ("1.12.0", {"snat": False}),
        ("1.12.6", {}),
        ("1.13", {"icmp": True}),
        ("17.09", {"icmp": True, "vip_on": "lo"}),
        ("18.03", {"icmp": True, "vip_on": "lo"}),
    ],
)
def test_docker_variants(variant: str, differs: dict[str, object]) -> None:
    (plain,) = catalog.select("ipvs-container@1.12.6")
    (selection,) = catalog.select(f"ipvs-container@{variant}")
    assert selection.knobs == {**plain.knobs, **differs}


def test_knobs_change_a_variant() -> None:
    (selection,) = catalog.select("ipvs-container@17.09+icmp=0+conn_reuse_mode=1")
    assert selection.name == "ipvs-container@17.09+icmp=0+conn_reuse_mode=1"
    assert (selection.knobs["icmp"], selection.knobs["conn_reuse_mode"]) == (False, 1)
    (selection,) = catalog.select("ipvs-container@conn_reuse_mode=none")
    assert (selection.variant, selection.knobs["conn_reuse_mode"]) == ("1.12.6-tweaked", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ipvs-contaner", "did you mean ipvs-container?"),
        ("zebra", "bench list dataplanes"),
        ("", "no data plane named"),
        ("direct@fast", "direct has no variants"),
        ("ipvs-container@2.0", "no variant '2.0'"),
        ("ipvs-container@1.13+speed=9", "unknown knob 'speed'"),
        ("ipvs-container@vip_on=eth9", "bad knob"),
        ("ipvs-container@conn_reuse_mode=often", "bad knob"),
    ],
)
def test_refusals_name_the_mistake(text: str, says: str) -> None:
    with pytest.raises(Usage, match=says.replace("?", r"\?")):
        catalog.select(text)


def test_every_plane_but_direct_needs_something_of_the_kernel() -> None:
    for selection in catalog.select("all"):
        needs = [each for each in catalog.requires(selection) if isinstance(each, Feature)]
        assert bool(needs) == (selection.dataplane != catalog.DIRECT), selection.name
