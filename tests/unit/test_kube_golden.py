"""The layouts of kube-proxy, rule by rule as its own tests and those who run it tell.

The world is that of pkg/proxy/nftables/proxier_test.go, TestOverallNFTablesRules, with its cluster IPs only: a service
of one endpoint, one of two, and one of none. What it says of `released` is in that test, with one difference: here
kube-proxy runs with --masquerade-all, so a service's first rule names no source. `1.36` and `one-map` differ as
kubernetes/kubernetes#136499 and #140362 say; the text of `nft list table` on a node of 1.36 agrees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

from dataplanes import catalog, chains, filters
from dataplanes.base import Site
from dataplanes.kernel.undo import Undo
from dataplanes.kube import KubeNft
from dataplanes.kube_nft import KubeNftKnobs
from dataplanes.model import Backend, Port, Service, remaining
from dataplanes.nft_rules import table_name

GOLDEN = Path(__file__).parent / "golden" / "kube"
SITE = Site("ns", "ns1", "n1", "10.180.0.0/16", "input", "snat", "eth0", "192.168.0.2")
TABLE = f"ip {table_name(SITE.network)}"
HTTP = (Port("tcp", 80),)


def service(network: str, name: str, vip: str, *endpoints: str, ports: tuple[Port, ...] = HTTP) -> Service:
    return Service(name, network, vip, tuple(map(Backend, endpoints)), ports)


WORLD = [
    service("ns1", "svc1", "172.30.0.41", "10.180.0.1"),
    service("ns4", "svc4", "172.30.0.44", "10.180.0.4", "10.180.0.5"),
    service("ns6", "svc6", "172.30.0.46"),
]


class Told:
    """nftables that only keeps what it is told."""

    def __init__(self, name: str) -> None:
        self.texts: list[str] = []

    def run(self, text: str) -> None:
        self.texts.append(text)

    def generation(self) -> int:
        return len(self.texts)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "Nftables", Told)


class Table:
    """The table of one site, and what its kernel was told."""

    def __init__(self, variant: str) -> None:
        (selection,) = catalog.select(f"kube-nftables@{variant}")
        knobs = msgspec.convert(selection.knobs, KubeNftKnobs)
        (found,), self.entries = KubeNft(knobs)._filters(SITE)
        assert isinstance(found, chains.NftChains)
        self.filter = found
        self.filter.open()

    def change(self, old: Sequence[Service], new: Sequence[Service]) -> list[str]:
        """Return what a change tells the kernel."""
        before = len(self.told)
        with Undo() as undo:
            self.filter.change(self.entries(old), self.entries(new), undo)
        return [line for text in self.told[before:] for line in text.splitlines()]

    @property
    def told(self) -> list[str]:
        assert isinstance(self.filter._nft, Told)
        return self.filter._nft.texts

    def state(self) -> Counter[str]:
        return state("\n".join(self.told))


def state(text: str) -> Counter[str]:
    """Return the lines that stand after some commands, each element by itself, without the table's name."""
    lines: list[str] = []
    for command in (line.replace(f" {TABLE}", "") for line in text.splitlines()):
        verb, kind, name, *rest = [*command.split(" ", 3), ""][:4]
        if kind == "element":
            for each in rest[0].removeprefix("{ ").removesuffix(" }").split(", "):
                line = f"add element {name} {{ {each} "
                lines = [known for known in lines if not f"{known} ".startswith(line)]
                lines += [f"{line}}}"] if verb == "add" else []
        elif kind == "table":
            lines = [] if verb == "delete" else lines
        elif verb in ("flush", "delete"):
            lines = [each for each in lines if not each.startswith(f"add rule {name} ")]
            lines = [each for each in lines if verb == "flush" or each.split()[:3] != ["add", "chain", name]]
        else:
            lines.append(command.strip())
    return Counter(lines)


def golden(*names: str) -> Counter[str]:
    return Counter(line for name in names for line in (GOLDEN / f"nftables-{name}.nft").read_text().splitlines())


@pytest.mark.parametrize("variant", ["released", "1.36", "one-map"])
def test_the_rules_are_those_of_kube_proxy(variant: str) -> None:
    table = Table(variant)
    table.change([], WORLD)
    assert table.state() == golden("base", variant)


@pytest.mark.parametrize("variant", ["released", "1.36", "one-map"])
def test_rules_of_one_chain_are_in_their_order(variant: str) -> None:
    """The files are sorted by chain; within a chain the order counts."""
    table = Table(variant)
    table.change([], WORLD)
    for chain in {line.split()[2] for line in table.state() if line.startswith("add rule")}:
        wanted = [line for line in golden("base", variant) if line.startswith(f"add rule {chain} ")]
        there = [line for line in table.state() if line.startswith(f"add rule {chain} ")]
        if chain != "services":  # here rules of both files meet: whoever is to be masqueraded is marked first
            assert there == wanted
        else:
            assert there == sorted(wanted, key=lambda line: "mark set" not in line)


def test_names_are_those_of_kube_proxy() -> None:
    """Namespace, name, protocol and port name are in the name, behind the beginning of their hash."""
    long = service("n" * 120, "s" * 120, "172.30.0.41", "10.180.0.1")
    (name, _), *_ = [each for each in KubeNft(KubeNftKnobs())._filters(SITE)[1]([long]) if each[0].startswith("chain")]
    assert len(name.removeprefix("chain service-")) == 240
    assert name.endswith("...")


def test_a_chain_whose_endpoints_change_is_never_empty() -> None:
    """A service's chain is flushed and filled again in one transaction, and a vanished endpoint's chain goes last."""
    table = Table("released")
    table.change([], WORLD)
    told = table.change([WORLD[1]], [service("ns4", "svc4", "172.30.0.44", "10.180.0.5")])
    first, last = "service-LAUZTJTB-ns4/svc4/tcp/p80", "endpoint-UNZV3OEC-ns4/svc4/tcp/p80__10.180.0.4/80"
    assert [line.replace(f" {TABLE}", "") for line in told] == [
        f"flush chain {first}",
        f"add rule {first} ip daddr 172.30.0.44 jump mark-for-masquerade",
        f"add rule {first} numgen random mod 1 vmap {{ 0 : goto endpoint-5RFCDDV7-ns4/svc4/tcp/p80__10.180.0.5/80 }}",
        f"flush chain {last}",
        f"delete chain {last}",
    ]


def test_a_change_of_one_map_is_as_proposed() -> None:
    """The design's own example: the 40th endpoint of a service. A dispatch chain is shared by services of one size."""
    table = Table("one-map")
    addresses = [f"10.180.1.{number}" for number in range(40)]
    few, many = (service("ns1", "svc1", "172.30.0.41", *addresses[:count]) for count in (39, 40))
    table.change([], [few])
    pick = "ip daddr . meta l4proto . th dport . ct mark map @endpoints"
    assert [line.replace(f" {TABLE}", "") for line in table.change([few], [many])] == [
        "add chain dispatch-40",
        f"add rule dispatch-40 ct mark set numgen random mod 40 dnat ip addr . port to {pick}",
        "delete element service-ips { 172.30.0.41 . tcp . 80 }",
        "add element endpoints { 172.30.0.41 . tcp . 80 . 39 : 10.180.1.39 . 80 }",
        "add element service-ips { 172.30.0.41 . tcp . 80 : goto dispatch-40 }",
        "add element hairpin-connections { 10.180.1.39 . 10.180.1.39 . tcp . 80 }",
        "flush chain dispatch-39",
        "delete chain dispatch-39",
    ]
    other = service("ns1", "svc2", "172.30.0.42", *addresses)
    assert "chain" not in {line.split()[1] for line in table.change([], [other])}
    assert not [line for line in table.change([many], []) if "dispatch-40" in line and "chain" in line]
    assert f"delete chain {TABLE} dispatch-40" in table.change([other], [])


@pytest.mark.parametrize("variant", ["released", "1.36", "one-map"])
def test_what_comes_is_gone_again_and_is_restored_and_counted(variant: str) -> None:
    table = Table(variant)
    empty = table.state()
    table.change([], WORLD)
    there = table.state()
    counted = {each.kind: each.objects for each in table.filter.footprint()}
    anonymous = [line for line in there if " map {" in line or " vmap {" in line]
    assert counted == {
        "nft chains": _count(there, "chain"),
        "nft rules": _count(there, "rule"),
        "nft sets": _count(there, "set") + _count(there, "map") + len(anonymous),
        "nft elements": _count(there, "element") + sum(line.count(":") for line in anonymous),
    }
    table.filter.restore()
    assert state(table.told[-1]) == there
    table.change(WORLD, [])
    assert table.state() == empty


def _count(lines: Iterable[str], kind: str) -> int:
    return sum(line.split()[1] == kind for line in lines)


def test_connections_may_go_on_to_backends_that_are_still_there() -> None:
    web = service("ns1", "web", "172.30.0.41", "10.180.0.1", "10.180.0.2")
    less = service("ns1", "web", "172.30.0.41", "10.180.0.1")
    assert remaining([web], [less]) == {"172.30.0.41": {"10.180.0.1"}}
    assert remaining([less], [web]) == {}
    assert remaining([web], []) == {"172.30.0.41": set()}
    assert remaining([], [less]) == {"172.30.0.41": {"10.180.0.1"}}
