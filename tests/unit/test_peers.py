"""Peers are data planes that one asks for: by name, or all of them as `peers`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from bench.documents import Interval, Matrix, MatrixCell, Result, Summary
from bench.report import peers as page
from bench.report import peers_cost
from bench.report.model import PUBLISHED, Report, load, published
from dataplanes import catalog, peers, platforms
from dataplanes.errors import Usage
from dataplanes.plane_file import PlaneProgram
from scenarios import expectations
from scenarios.checks import CHECKS
from scenarios.outcomes import Expected
from tests.unit.conftest import Bench


def program(name: str) -> PlaneProgram:
    found = catalog.select(name)[0].program
    assert found
    return found


def test_they_are_selected_by_name_and_are_not_among_all() -> None:
    assert {"nftlb", "haproxy"} <= set(peers.NAMES)
    assert [each.name for each in catalog.select("nft-lb,peers")] == ["nft-lb", *peers.NAMES]
    assert not {*peers.NAMES} & {each.name for each in catalog.select("all")}
    with pytest.raises(Usage, match="did you mean nftlb"):
        catalog.select("nftbl")


@pytest.mark.parametrize("name", peers.NAMES)
def test_each_is_a_plane_file_with_packages_that_imitates_one_of_ours(name: str) -> None:
    (selection,) = catalog.select(name)
    found = program(name)
    assert (selection.name, found.file, Path(found.directory).name) == (name, peers.file(name), name)
    assert found.packages
    assert catalog.select(found.imitates)[0].placement == found.placement
    assert f"{found.directory}/translate.py" in [*found.files()], "its digest tells of another program"
    expectations.demand_known([selection])


@pytest.mark.parametrize("name", peers.NAMES)
def test_each_difference_has_a_source_and_is_one(name: str) -> None:
    """What the imitated plane has or lacks, too, is no difference."""
    (selection,) = catalog.select(name)
    found = program(name)
    imitated = catalog.select(found.imitates)[0]
    for each in expectations.about(selection):
        assert each.reference, each.checks
        for check in each.checks:
            release = (each.kernels or ["6.12"])[0]
            assert expectations.expected(imitated, check, release).expected != each.expected, check
            assert expectations.expected(selection, check, release).expected == each.expected, check


def test_what_it_imitates_is_expected_of_it(tmp_path: Path) -> None:
    text = 'name = "mine"\nsummary = "mine"\nplacement = "lb"\ncommand = "true"\nimitates = "IMITATED"\n'
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("IMITATED", "nft-lb@random"), "utf-8")
    (selection,) = catalog.select(str(path))
    (imitated,) = catalog.select("nft-lb@random")
    for check in CHECKS:
        found, like = (expectations.expected(each, check, "6.12") for each in (selection, imitated))
        assert (found.expected, found.reason) == (like.expected, like.reason)
    for wrong, says in (
        ("nft-bl", r"mine.toml:5: imitates: there is no data plane 'nft-bl' \(did you mean nft-lb\?\)"),
        ("nft-lb@other", "nft-lb has no variant 'other'"),
        ("nftlb", "there is no data plane 'nftlb'"),
        ("./mine.toml", "there is no data plane './mine.toml'"),
    ):
        path.write_text(text.replace("IMITATED", wrong), "utf-8")
        with pytest.raises(Usage, match=says):
            catalog.select(str(path))


@pytest.mark.parametrize("name", ["peers", *peers.NAMES])
def test_no_plane_of_the_users_has_the_name_of_a_peer(bench: Bench, tmp_path: Path, name: str) -> None:
    assert bench("plane", "new", name).exit_code == 2
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "{name}"\nsummary = "mine"\nplacement = "lb"\ncommand = "true"\n', "utf-8")
    with pytest.raises(Usage, match=f"there is a data plane {name} already"):
        catalog.select(str(path))


def test_they_are_listed_as_peers(bench: Bench) -> None:
    rows = {row["name"]: row for row in json.loads(bench("list", "dataplanes", "--json").stdout)}
    assert [name for name, row in rows.items() if row.get("peer")] == [*peers.NAMES, *platforms.known()]
    line = next(each for each in bench("list", "dataplanes").stdout.splitlines() if each.startswith("nftlb "))
    assert line.endswith(" (a peer)")
    (row,) = json.loads(bench("list", "dataplanes", "nftlb", "--json").stdout)
    assert row == rows["nftlb"]


@pytest.fixture(scope="module")
def seen() -> page.PeerDocuments:
    return page.PeerDocuments(PUBLISHED / "peers", load(published()))


def test_the_page_tells_every_difference(seen: page.PeerDocuments) -> None:
    text = page.PAGE.read_text("utf-8")
    assert set(re.findall(r"<!-- differences of (\S+) -->", text)) == {*peers.NAMES, "swarm@20.10", "ovn@23.03"}
    assert "<!-- differences of ovn@23.03-userspace from ovn@23.03 -->" in text
    assert text == page.written(text, seen), "python -m bench.report.peers"


def test_every_observation_of_a_peer_is_as_expected(seen: page.PeerDocuments) -> None:
    """What is expected of a peer today is what the documents have: a reason that was changed is observed anew."""
    names = {name for _, name in seen.cells()}
    platform = {f"{each.name}@{version}" for each in platforms.known().values() for version in each.versions}
    assert names == {*peers.NAMES, *platform} - {"haproxy"}
    for (kernel, name), cells in seen.cells().items():
        assert {*cells} == {*CHECKS}, f"{name} on {kernel}"
        selection = catalog.peer(name)
        for check, cell in cells.items():
            assert cell.outcome == cell.expected, f"{name}: {check} on {kernel}"
            if cell.outcome != "skip":
                release = kernel.removeprefix("debian-")
                assert expectations.expected(selection, check, release).expected == cell.outcome, check


def test_our_lab_costs_what_a_real_swarm_does_with_its_servers_outside_of_containers(seen: page.PeerDocuments) -> None:
    """It is within 2 %. Control groups add something, and the rest of a container adds a little more."""
    found = peers_cost.ratios(seen.results)
    assert [*found] == ["container", "cgroup", "namespace", "lab"]
    assert found["lab"] == pytest.approx([1, 1], abs=0.02)
    for group, container in zip(found["cgroup"], found["container"], strict=True):
        assert 1.02 < group < container < 1.1


def test_what_containers_add_is_told_against_servers_in_their_network_namespaces() -> None:
    swarm, lab = "swarm@26.1", {"direct": 990.0, "ipvs-lb@iptables": 2040.0}
    outside = {"cgroup": (1030.0, 2040.0), "namespace": (1000.0, 2000.0)}
    results = {
        "cost-of-platforms": _result({f"direct@{swarm}": 1050.0, swarm: 2080.0}),
        "cost-outside-containers": _result(
            {
                f"{reference}{swarm}+servers={place}": cost
                for place, costs in outside.items()
                for reference, cost in zip(("direct@", ""), costs, strict=True)
            }
        ),
        "cost-of-imitations": _result(lab),
    }
    rows = [line.split("|")[3:5] for line in peers_cost.containers(results)][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1,050: +5.0 %", "2,080: +4.0 %"],
        ["1,030: +3.0 %", "2,040: +2.0 %"],
        ["1,000", "2,000"],
        ["990: -1.0 %", "2,040: +2.0 %"],
    ]


def _result(costs: dict[str, float]) -> Result:
    """Return a document of what a connection costs on some planes."""
    cost = "instructions_per_connection"
    rows = [Summary(name, "seed", "crr", 3, {cost: Interval(each)}, None, {}, {}) for name, each in costs.items()]
    return Result({}, {}, {}, [], rows)


def test_versions_are_told_by_what_differs_between_them(tmp_path: Path) -> None:
    cells = {
        "20.10": [_cell("20.10", "reach.payload", "pass")],
        "26.1": [_cell("26.1", "reach.payload", "fail", "it is cut", "x.go, cut")],
        "28.5": [_cell("28.5", "reach.payload", "pass")],
    }
    plan = {"checks": [{"name": "reach.payload"}]}
    for version, found in cells.items():
        matrix = Matrix(
            {},
            {"debian-6.12": {"kernel": "6.12", "clock": "instructions"}},
            plan | {"dataplanes": [{"name": f"swarm@{version}", "program": None}]},
            found,
        )
        (tmp_path / f"swarm@{version}.json").write_bytes(msgspec.json.encode(matrix))
    seen = page.PeerDocuments(tmp_path, Report([], []))
    assert [*page.differences("swarm@26.1", "swarm@20.10", seen)] == [
        "0 of 1 checks have the outcome of `swarm@20.10`. The others:",
        "",
        "- `reach.payload`: **does not hold** (holds on `swarm@20.10`). It is cut. Source: x.go, cut.",
    ]
    assert [*page.differences("swarm@28.5", "swarm@20.10", seen)] == [
        "1 of 1 checks have the outcome of `swarm@20.10`."
    ]
    text = "<!-- differences of swarm@26.1 from swarm@20.10 -->\nan earlier list\n<!-- end of differences -->"
    assert "It is cut" in page.written(text, seen)
    assert "an earlier list" not in page.written(text, seen)
    assert [*page.cells(seen)][2:] == [
        "| `swarm@20.10` | 6.12 | 1 | 1 | 0 | 0 | 0 |",
        "| `swarm@26.1` | 6.12 | 1 | 0 | 1 | 0 | 0 |",
        "| `swarm@28.5` | 6.12 | 1 | 1 | 0 | 0 | 0 |",
    ]


def test_what_was_not_observed_is_no_difference(tmp_path: Path) -> None:
    """Such as a check that idles, on the machine's own kernel, which is told by its release."""
    told = {"idle.tcp-1h": "it idles for minutes", "balance.under-change": "not applicable: it counts turns"}
    cells = [MatrixCell("host", "swarm@26.1", check, "skip", "skip", why, 0.0, why) for check, why in told.items()]
    plan = {"dataplanes": [{"name": "swarm@26.1", "program": None}], "checks": [{"name": each} for each in told]}
    environment = {"host": {"kernel": "6.18.44-fc", "clock": "wall"}}
    matrix = Matrix({}, environment, plan, cells)
    (tmp_path / "swarm@26.1.json").write_bytes(msgspec.json.encode(matrix))
    seen = page.PeerDocuments(tmp_path, Report([], []))
    lines = [*page.differences("swarm@26.1", None, seen)]
    assert lines[0].startswith("0 of 1 checks")
    assert "idle" not in "\n".join(lines)
    assert [*page.cells(seen)][2:] == ["| `swarm@26.1` | 6.18.44, the machine's own | 2 | 0 | 0 | 2 | 0 |"]


def _cell(version: str, check: str, outcome: Expected, *told: str) -> MatrixCell:
    return MatrixCell("debian-6.12", f"swarm@{version}", check, outcome, outcome, "", 0.0, *told)


def test_the_page_tells_what_only_one_has_programmed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: page.PeerDocuments
) -> None:
    monkeypatch.setattr(page, "_DUMPS", tmp_path)
    (tmp_path / "ours.txt").write_text("## lb: sysctl\na = 1\nb = 2\n", "utf-8")
    (tmp_path / "its@1.txt").write_text("## lb: sysctl\na = 1\nb = 3\n", "utf-8")
    text = "<!-- its@1 programs instead of ours -->\nold\n<!-- end of what it programs -->"
    assert page.written(text, seen).splitlines()[1:-1] == ["```diff", "@@ lb: sysctl @@", "-b = 2", "+b = 3", "```"]
