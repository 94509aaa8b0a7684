"""The axes: the meaning of a point and of a sweep, and the scenario at a point."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli.options import axis_values
from bench.outside.points import crowded, series
from bench.outside.rounds import Series, interleave
from dataplanes.errors import Usage
from dataplanes.selection import REFERENCE, Selection
from scenarios import axes, topology
from scenarios.axes import Axes, Sweep


def test_a_point_says_what_is_unusual_about_it() -> None:
    assert Axes().label() == ""
    assert Axes(services=1000, concurrency=1).label() == "1,000 more services, 1 at a time"


def test_a_sweep_is_every_combination() -> None:
    points = Sweep(services=(1, 10), containers=(0, 5)).points()
    assert [(p.services, p.containers) for p in points] == [(1, 0), (1, 5), (10, 0), (10, 5)]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("services", "many", "--services 'many' is not a list of numbers"),
        ("services", "50001", "--services: 50001 is not between 0 and 50,000"),
        ("concurrency", "0", "--concurrency: 0 is not between 1 and 10,000"),
    ],
)
def test_a_bad_value_is_refused_with_its_option(name: str, text: str, told: str) -> None:
    with pytest.raises(Usage) as caught:
        series(["crr"], axis_values({name: text}))
    assert caught.value.message == told


def test_a_sweep_out_of_bounds_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "far.toml"
    text = Path(topology._FILES, "seed.toml").read_text("utf-8")
    path.write_text(text + "\n[[sweep]]\nservices = [1, 99999]\n", "utf-8")
    with pytest.raises(Usage) as caught:
        topology.load(str(path))
    assert caught.value.where == f"{path}:{text.count(chr(10)) + 3}: sweep[0].services"


def test_the_scenario_at_a_point_has_what_the_point_says() -> None:
    scenario = topology.load("scale", Axes(services=7, backends=10, containers=2, nodes=5))
    assert scenario.nodes == ["manager1", "worker1", "worker2", "node4", "node5"]
    assert len(scenario.service("my-web").tasks) == 10
    assert scenario.filler
    assert (scenario.filler.count, scenario.filler.backends) == (7, 10)
    assert len(scenario.idlers) == 10
    addresses = [task.address for task in (*scenario.tasks(), *scenario.idlers)]
    assert len(set(addresses)) == len(addresses)


def test_a_further_node_has_a_container_so_that_the_network_is_there() -> None:
    assert {task.node for task in topology.load("seed", Axes(nodes=4)).idlers} >= {"node4"}


def test_options_go_before_the_files_sweeps_and_program_gets_services() -> None:
    sweeps = [Sweep(services=(1, 2)), Sweep(containers=(3,), workloads=("crr",), without=("ipvs-container",))]
    assert [len(each.points) for each in series(["crr"], {}, sweeps)] == [2, 1]
    assert series(["crr"], {}, sweeps)[1].without == ("ipvs-container",)
    assert series(["crr"], {"services": [5]}, sweeps) == [Series(("crr",), (Axes(services=5),))]
    assert series(["crr", "program"], {}, [])[1] == Series(("program",), (Axes(services=1000),))
    assert crowded(series(["crr"], {"services": [500]}, []))
    assert not crowded(series(["crr"], {}, []))


PLANES = [REFERENCE, Selection("a+x=1", "a"), Selection("b", "b")]


def test_no_trial_is_planned_twice_and_planes_can_be_left_out() -> None:
    found = [
        Series(("crr",), (Axes(services=1), Axes(services=10)), ("b",)),
        Series(("crr", "program"), (Axes(services=1), Axes(containers=4))),
    ]
    plans = interleave(PLANES, 1, connections=100, series=found)
    measured = [(p.dataplane, p.workload, p.axes.label()) for p in plans if not p.warmup]
    assert len(set(measured)) == len(measured)
    assert ("b", "crr", "10 more services") not in measured
    assert ("b", "crr", "4 more containers per node") in measured
    assert ("direct", "program", "1 more services") not in measured
    once = interleave(PLANES, 3, connections=100, series=[Series(without=("a@v",), rounds=1), Series(("rr",))])
    assert {(p.dataplane, p.workload): p.round for p in once if p.workload == "crr"} == {
        ("direct", "crr"): 1,
        ("a+x=1", "crr"): 1,
        ("b", "crr"): 1,
    }
    assert max(p.round for p in once if p.workload == "rr") == 3
    named = [Selection("a@v+x=1", "a", "v"), Selection("b@v", "b", "v")]
    assert [p.dataplane for p in interleave(named, 1, connections=9, series=[Series(without=("a@v",))])] == ["b@v"] * 2
    assert [p.dataplane for p in interleave(named, 1, connections=9, series=[Series(only=("a@v",))])] == ["a@v+x=1"] * 2
    warm = [(p.dataplane, p.workload) for p in plans if p.warmup]
    assert sorted(warm) == [("a+x=1", "crr"), ("b", "crr"), ("direct", "crr")]
    each = interleave(PLANES, 1, connections=100, series=found, warm="workload")
    assert sorted((p.dataplane, p.workload) for p in each if p.warmup) == [
        ("a+x=1", "crr"),
        ("a+x=1", "program"),
        ("b", "crr"),
        ("b", "program"),
        ("direct", "crr"),
    ]


def test_every_axis_is_a_field_a_sweep_and_a_word() -> None:
    assert tuple(axes.AXES) == Axes.__struct_fields__
    assert set(axes.AXES) < set(Sweep.__struct_fields__)


@pytest.mark.parametrize(("mtu", "refused"), [(625, True), (626, False), (1500, False), (1501, True)])
def test_an_underlay_carries_what_every_host_takes_and_no_jumbo_frames(tmp_path: Path, mtu: int, refused: bool) -> None:
    path = tmp_path / "narrow.toml"
    path.write_text(Path("scenarios/files/narrow.toml").read_text().replace("= 1400", f"= {mtu}"))
    if refused:
        with pytest.raises(Usage, match=rf"narrow\.toml:\d+: underlay_mtu: {mtu} is not between 626 and 1500"):
            topology.load(str(path))
    else:
        assert topology.load(str(path)).underlay_mtu == mtu
