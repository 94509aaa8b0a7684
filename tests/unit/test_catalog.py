"""The values that `--dataplane` accepts, and its answers to those it does not."""

from __future__ import annotations

import msgspec
import pytest

from bench.outside import matrix
from dataplanes import catalog, knobs
from dataplanes.errors import Usage
from dataplanes.placements import TcPlacement
from dataplanes.recipe import Part
from dataplanes.requirements import Feature
from dataplanes.selection import DIRECT, Selection, balances, title
from tests.conftest import ROOT


def test_all_names_every_plane_once() -> None:
    assert [each.name for each in catalog.select("all")] == catalog.names()
    assert [each.name for each in catalog.select("direct,direct")] == ["direct"]


def test_default_variant_is_1_12_6_with_the_three_sysctls() -> None:
    (selection,) = catalog.select("ipvs-container")
    assert selection.variant == "1.12.6-tweaked"
    assert selection.knobs == {
        "choose": "rule",
        "back": "iptables",
        "own": "address",
        "scheduler": "rr",
        "vip_on": "eth0",
        "icmp": False,
        "mute": False,
        "weight0": False,
        "conntrack": None,
        "conn_reuse_mode": 0,
        "expire_nodest_conn": 1,
        "expire_quiescent_template": 1,
        "snat_reroute": None,
        "run_estimation": None,
    }


@pytest.mark.parametrize(
    ("variant", "differs"),
    [
        ("1.12.0", {"back": "none"}),
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


PLACES = ("ipvs-container", "ipvs-lb", "ipvs-lb-dsr", "ipvs-overlay", "ipvs-host")


@pytest.mark.parametrize("variant", ["iptables", "map", "port"])
def test_a_variant_of_ipvs_means_the_same_at_every_placement(variant: str) -> None:
    """Only the way back, and what a container alone has, may differ."""
    found = {name: catalog.select(f"{name}@{variant}")[0].knobs for name in PLACES}
    rest = [{k: v for k, v in each.items() if k not in ("back", "vip_on", "icmp")} for each in found.values()]
    assert all(each == rest[0] for each in rest)


def test_the_default_is_the_article_s_in_the_container_and_elsewhere_the_cheapest_with_any_port() -> None:
    defaults = [catalog.select(name)[0].variant for name in PLACES]
    assert defaults == ["1.12.6-tweaked", "map", "map", "map", "map"]


def test_only_a_plane_with_a_service_for_each_port_needs_declared_ones() -> None:
    planes = [*catalog.select("all"), *catalog.select("ipvs-lb@port,ipvs-lb@map,ipvs-container+choose=port")]
    assert [each.name for each in planes if not catalog.any_port(each)] == [
        "kube-iptables",
        "kube-ipvs",
        "kube-nftables",
        "ipvs-lb@port",
        "ipvs-container+choose=port",
    ]


def test_only_planes_that_are_told_so_choose_at_random() -> None:
    planes = [*catalog.select("all"), *catalog.select("nft-host@random,nft-host,kube-nftables@one-map")]
    assert [each.name for each in planes if not catalog.in_turn(each)] == [
        "moby-nftables",
        "kube-iptables",
        "kube-nftables",
        "nft-host@random",
        "kube-nftables@one-map",
    ]


def test_the_needs_follow_the_knobs() -> None:
    """The article's planes need no nftables, and those of today no iptables."""
    needs = {
        variant: {
            each.config if isinstance(each, Feature) else each.name
            for each in catalog.requires(catalog.select(f"ipvs-overlay@{variant}")[0])
        }
        for variant in ("iptables", "map", "port")
    }
    assert "iptables-legacy-restore" in needs["iptables"]
    assert "NF_TABLES" not in needs["iptables"]
    for variant in ("map", "port"):
        assert "NF_TABLES" in needs[variant]
        assert not needs[variant] & {"iptables-legacy-restore", "IP_NF_NAT", "IP_NF_MANGLE", "IP_VS_NFCT"}


def test_a_scheduler_is_needed_only_where_it_is_used() -> None:
    needs = [catalog.requires(each) for each in catalog.select("ipvs-lb,ipvs-lb+scheduler=wrr")]
    found = [[each.module for each in all_ if isinstance(each, Feature) and "RR" in each.config] for all_ in needs]
    assert found == [["ip_vs_rr"], ["ip_vs_wrr"]]


def test_none_is_a_value_where_it_is_one() -> None:
    (selection,) = catalog.select("ipvs-overlay+back=none+conntrack=none")
    assert (selection.knobs["back"], selection.knobs["conntrack"]) == ("none", None)


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
        ("ipvs-container@2.0", "it has: 1.12.0, 1.12.6, 1.12.6-tweaked, 1.13"),
        ("ipvs-container@1.13+speed=9", "unknown knob 'speed' (knobs, as knob=value: choose, back, own"),
        ("nft-lb+schedul=random", "unknown knob 'schedul' (did you mean scheduler?"),
        ("nft-lb@random+scheduler", "knob 'scheduler' without a value (scheduler=random|rr)"),
        ("ipvs-container@vip_on=eth9", "bad knob 'vip_on=eth9' (vip_on=eth0|lo)"),
        ("ipvs-container@conn_reuse_mode=often", "bad knob 'conn_reuse_mode=often' (conn_reuse_mode=0..3|none)"),
        ("ipvs-lb+expire_nodest_conn=2", "bad knob 'expire_nodest_conn=2' (expire_nodest_conn=0..1|none)"),
        ("ebpf-tc+connections=0", "bad knob 'connections=0'"),
        ("ipvs-lb+back=none", "bad knob 'back=none' (back=iptables|nft)"),
        ("ipvs-host+back=stateless", "bad knob 'back=stateless' (back=iptables|nft)"),
        ("ipvs-lb-dsr+back=nft", "bad knob 'back=nft' (back=none)"),
    ],
)
def test_refusals_name_the_mistake(text: str, says: str) -> None:
    with pytest.raises(Usage) as refused:
        catalog.select(text)
    assert says in str(refused.value)


def test_a_knob_may_follow_the_planes_name() -> None:
    """`nft-lb+scheduler=random` was an unknown data plane."""
    (short,), (long,) = catalog.select("nft-lb+scheduler=random"), catalog.select("nft-lb@scheduler=random")
    assert (short.dataplane, short.variant, short.knobs) == (long.dataplane, long.variant, long.knobs)


def test_every_knob_says_what_it_means_and_may_be() -> None:
    for name in catalog.BUILT_IN:
        default = catalog.default(name)
        assert default
        for knob in knobs.described(default):
            assert knob.meaning, (name, knob)
            assert knob.values.strip("."), (name, knob)
            assert catalog.select(f"{name}+{knob.name}={knob.default}")


def test_every_plane_but_direct_needs_something_of_the_kernel() -> None:
    for selection in catalog.select("all"):
        needs = [each for each in catalog.requires(selection) if isinstance(each, Feature)]
        assert bool(needs) == (selection.dataplane != DIRECT), selection.name


def test_needs_are_those_of_the_chosen_knobs() -> None:
    """The requirements were those of the default variant, whatever knobs were chosen."""
    default, modern = catalog.select("ipvs-container,ipvs-container@iptables")
    more = set(catalog.requires(modern)) - set(catalog.requires(default))
    assert [each.module for each in more if isinstance(each, Feature)] == ["xt_conntrack"]


def test_nothing_is_made_to_learn_what_a_plane_needs() -> None:
    class Dear(TcPlacement):
        def __init__(self) -> None:
            raise AssertionError("it was made")

    part = Part(Dear)
    assert part.requires() == TcPlacement.requires()
    with pytest.raises(AssertionError, match="it was made"):
        part.make()


def test_a_selection_tells_where_it_balances_and_survives_the_way_to_the_kernel_under_test() -> None:
    for selection in catalog.select("all"):
        assert selection.placement == catalog.placement(selection.dataplane)
        assert msgspec.json.decode(msgspec.json.encode(selection), type=Selection) == selection
        assert catalog.needs_cgroups(selection) == (selection.placement == "socket")


CALLERS = {
    "bench/api.py",
    "bench/cli/explore.py",
    "bench/cli/listing.py",
    "bench/cli/main.py",
    "bench/cli/matrix.py",
    "bench/cli/options.py",
    "bench/cli/tracing.py",
    "bench/outside/adopt.py",
    "bench/outside/command.py",
}
"""Give each text that a user can write."""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ipvs-lb", "ipvs-lb@map"),
        ("ipvs-lb@map", "ipvs-lb@map"),
        ("ipvs-lb+scheduler=wrr", "ipvs-lb@map+scheduler=wrr"),
        ("ipvs-lb@port+scheduler=wrr", "ipvs-lb@port+scheduler=wrr"),
        ("nft-lb", "nft-lb"),
        ("nft-lb+scheduler=random", "nft-lb+scheduler=random"),
        ("ebpf-redirect+every=true", "ebpf-redirect+every=true"),
        ("direct", "direct"),
    ],
)
def test_the_title_of_a_selection_names_its_variant(name: str, told: str) -> None:
    (selection,) = catalog.select(name)
    assert title(selection.name, selection.dataplane, selection.variant) == told
    assert catalog.select(told)[0].knobs == selection.knobs


def test_a_plane_in_each_variant_is_what_its_name_selects() -> None:
    for plane in catalog.names()[1:]:
        assert catalog.variants(plane) == [catalog.select(each.name)[0] for each in catalog.variants(plane)]
        assert [each.variant for each in catalog.variants(plane)] == list(catalog.recipe(plane).variants)
    with pytest.raises(Usage, match="no variants"):
        catalog.variants("direct")


def test_a_name_is_parsed_where_a_user_gave_it_and_nowhere_else() -> None:
    paths = [path for layer in ("bench", "scenarios", "dataplanes") for path in (ROOT / layer).rglob("*.py")]
    assert {str(p.relative_to(ROOT)) for p in paths if "catalog.select(" in p.read_text()} == CALLERS


@pytest.mark.parametrize(
    ("name", "has_vips"),
    [("direct", False), ("direct-short", False), ("direct-short@endpoints=9", False), ("ebpf-redirect", True)],
)
def test_the_reference_and_the_limit_have_no_vips(name: str, has_vips: bool) -> None:
    assert balances(name) == has_vips


def test_a_limit_is_no_plane_to_observe() -> None:
    assert [each.name for each in matrix.planes(catalog.select("direct,direct-short,ebpf-redirect"))] == [
        "ebpf-redirect"
    ]
    with pytest.raises(Usage, match="direct-short: nothing to observe"):
        matrix.planes(catalog.select("direct-short"))
