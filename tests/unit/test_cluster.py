"""Work that is dealt to the workers of a dask cluster: a real scheduler, real workers, and lanes that only play."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from distributed import LocalCluster

from bench.documents import Event, Goal, Job, Round, Trial, TrialPlan
from bench.kernels import Kernel
from bench.outside import cluster as module
from bench.outside import dealing, lane
from bench.outside.cluster import Cluster, demand_alike
from bench.outside.lane import Elsewhere
from bench.outside.lanes import Share
from bench.outside.worker import left
from dataplanes import catalog
from dataplanes.errors import KernelRefused, Prerequisite, TimedOut, Usage
from scenarios.axes import Axes

PLANES = ("direct", "nft-lb", "ipvs-lb")
GUEST = cast(Kernel, SimpleNamespace(name="guest", clock="instructions"))


def trials(plane: str) -> list[TrialPlan]:
    return [TrialPlan(plane, number, number == 0, 10) for number in range(4)]


SHARES = [Share(GUEST, Job("trials", selections=catalog.select(name), trials=trials(name))) for name in PLANES]


class Heard:
    """What a command hears of its shares."""

    def __init__(self) -> None:
        self.trials: Counter[tuple[str, int]] = Counter()
        self.then: Any = lambda: None

    def __call__(self, kernel: str, event: Event) -> None:
        assert kernel == "guest"
        if event.kind == "trial":
            self.trials[event.data["dataplane"], event.data["round"]] += 1
            self.then()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Any]:
    """A scheduler and two workers on loopback."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path),
    ) as started:
        yield started


@pytest.fixture
def lanes(workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("BENCH_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(
        lane, "PROGRAM", (sys.executable, str(Path(__file__).with_name("played_lane.py")), str(tmp_path))
    )
    monkeypatch.setattr(module, "make_all_ready", lambda shares: None)
    monkeypatch.setattr(module, "_elsewhere", lambda shares: {"guest": Elsewhere({})})
    return Cluster(workers.scheduler_address)


def test_every_trial_is_told_once(lanes: Cluster, heard: Heard) -> None:
    lanes.run(SHARES, heard)
    assert heard.trials == Counter({(name, number): 1 for name in PLANES for number in range(4)})


def test_the_first_error_names_the_worker_and_ends_all(lanes: Cluster, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    with pytest.raises(KernelRefused, match=r"worker tcp://127.0.0.1:\d+, \S+: refused"):
        lanes.run(SHARES, heard)


@pytest.mark.parametrize("number", [1, 2])
def test_when_the_command_is_interrupted_its_lanes_have_ended_before_it_does(
    lanes: Cluster, heard: Heard, tmp_path: Path, number: int
) -> None:
    (tmp_path / "waits").touch()

    def interrupt() -> None:
        if len(heard.trials) == number:
            raise KeyboardInterrupt

    heard.then = interrupt
    with pytest.raises(KeyboardInterrupt):
        lanes.run(SHARES, heard)
    assert len(list(tmp_path.glob("asked-*"))) >= number
    assert not list((tmp_path / "state").glob("*"))


def test_what_a_lost_worker_had_in_hand_goes_elsewhere(
    lanes: Cluster, heard: Heard, workers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first trial of two shares has ended when one's worker is lost: that trial is not told again."""
    (tmp_path / "waits").touch()
    lost = next(iter(workers.workers.values())).address

    def lose() -> None:
        if len(heard.trials) == 2 and (tmp_path / "waits").exists():
            workers.sync(workers.scheduler.remove_worker, lost, stimulus_id="lost")
            (tmp_path / "waits").unlink()

    heard.then = lose
    lanes.run(SHARES, heard)
    assert heard.trials == Counter({(name, number): 1 for name in PLANES for number in range(4)})
    assert f"bench: worker {lost} is lost, and worker tcp://" in capsys.readouterr().err


def test_what_is_left_of_a_planes_trials_is_what_was_not_told() -> None:
    job = Job("trials", trials=trials("nft-lb"))
    done = [
        Trial(plan.dataplane, "seed", plan.workload, plan.round, plan.warmup, {"connections_per_second": 5.0})
        for plan in job.trials
    ]
    assert left(job, done[:3]).trials == job.trials[3:]
    assert left(job, done).trials == []
    assert left(job, []) == job


def test_a_lost_workers_rounds_count_towards_agreement() -> None:
    plans = [TrialPlan("nft-lb", number, False, 10) for number in range(1, 8)]
    before = [Round("nft-lb", "crr", Axes(), 1, 5.0)]
    job = Job("trials", trials=plans, goal=Goal("instructions", 0.005), rounds=before)
    done = [Trial("nft-lb", "seed", "crr", number, False, {"connections_per_second": 5.0}) for number in (2, 3)]
    assert left(job, done).trials == []
    assert left(job, done[:1]).trials == [plans[0], *plans[2:]]
    assert [each.value for each in left(job, done[:1]).rounds] == [5.0, 5.0]


def test_what_is_left_of_a_planes_checks_is_what_was_not_told() -> None:
    job = Job("matrix", selections=catalog.select("nft-lb"), checks=["a", "b", "c"])
    assert left(job, [], {("nft-lb", "b")}).checks == ["a", "c"]


def test_time_that_is_up_ends_all(lanes: Cluster, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "waits").touch()
    with pytest.raises(TimedOut):
        lanes.run(SHARES, heard, timeout=1.5)
    assert not list((tmp_path / "state").glob("*"))


def test_no_more_guests_run_than_asked_for(lanes: Cluster, workers: Any) -> None:
    assert lanes.count(GUEST, 12) == 2
    assert Cluster(workers.scheduler_address, 1).count(GUEST, 12) == 1
    assert lanes.count(GUEST, 12, kernels=2) == 1
    assert lanes.deal(GUEST, ["a", "b"]) == [["a"], ["b"]]


def test_without_any_worker_the_command_ends(
    lanes: Cluster, heard: Heard, workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "_ALONE", 0.2)
    monkeypatch.setattr(dealing, "_COUNT", 0.1)
    (tmp_path / "waits").touch()

    def lose() -> None:
        for each in list(workers.workers.values()):
            workers.sync(workers.scheduler.remove_worker, each.address, stimulus_id="lost")

    heard.then = lose
    with pytest.raises(Prerequisite, match="no worker is left"):
        lanes.run(SHARES, heard)
    monkeypatch.setattr(module, "_CONNECTS", 0.2)
    with pytest.raises(Prerequisite, match=r"has no worker \(start one with `./run dask worker tcp://127"):
        lanes.run(SHARES, heard)


def test_a_scheduler_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECTS", 0.2)
    with pytest.raises(Prerequisite, match="cannot reach the scheduler"):
        Cluster("tcp://127.0.0.1:1").count(GUEST, 3)


def test_certificates_that_are_missing_are_told_at_once() -> None:
    with pytest.raises(Prerequisite, match="dask's configuration names no certificates"):
        Cluster("tls://127.0.0.1:1").count(GUEST, 3)


@pytest.mark.parametrize("address", ["", "127.0.0.1", "tcp://host", "udp://host:1", "tcp://a b:1", "http://host:8786"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(Usage, match="cannot read the scheduler's address"):
        Cluster(address)


def test_without_dask_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(Prerequisite, match=r"not installed.*pip install 'vip-bench\[cluster\]'"):
        Cluster("local")


def test_the_wall_clock_is_refused() -> None:
    assert Cluster("local").clock(None) == Cluster("local").clock("instructions") == "instructions"
    with pytest.raises(Usage, match="the wall clock cannot be used on a cluster"):
        Cluster("local").clock("wall")


def versions(**workers: str | None) -> dict[str, Any]:
    """As a client tells them: a worker's may differ."""
    same = {"python": "3.11.2.final.0", "dask": "2026.1.0", "distributed": "2026.1.0", "vip-bench": "0.2.0"}
    told = {"client": {"packages": same}, "scheduler": {"packages": same | {"vip-bench": None}}}
    return told | {
        "workers": {"tcp://10.0.0.1:1": {"packages": same}, "tcp://10.0.0.2:1": {"packages": same | workers}}
    }


@pytest.mark.parametrize(
    ("differing", "says"),
    [
        (
            {"python": "3.12.3.final.0"},
            "tcp://10.0.0.2:1: the versions differ: python is 3.12.3 there, and 3.11.2 here",
        ),
        ({"distributed": "2025.1.0"}, "distributed is 2025.1.0 there, and 2026.1.0 here"),
        ({"vip-bench": None}, "vip-bench is missing there, and 0.2.0 here"),
    ],
)
def test_a_worker_with_other_versions_is_refused(differing: dict[str, str | None], says: str) -> None:
    demand_alike(versions())
    with pytest.raises(Prerequisite) as caught:
        demand_alike(versions(**differing))
    assert says in str(caught.value)


def test_a_machine_with_another_program_is_refused() -> None:
    here = {"python": "3.11.2", "sources": "0123456789ab"}
    lane._demand_same({**here, "tc.bpf": "of another plane"}, here, all_of_it=False)
    with pytest.raises(Prerequisite, match=r"tc\.bpf is missing here, and 555555555555 there"):
        lane._demand_same({**here, "tc.bpf": "555555555555"}, here, all_of_it=True)
    with pytest.raises(Prerequisite, match="sources is 0123456789ab here, and ba9876543210 there"):
        lane._demand_same(here | {"sources": "ba9876543210"}, here, all_of_it=False)


def test_a_scenarios_file_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    path = Path(lane._file("/elsewhere/mine.toml", "nodes = []"))
    assert (path.name, path.read_text("utf-8")) == ("mine.toml", "nodes = []")
    assert path.is_relative_to(tmp_path)


def test_a_shell_in_a_lab_needs_this_machine(lanes: Cluster, heard: Heard) -> None:
    with pytest.raises(Usage, match="no shell can be opened on a cluster"):
        lanes.run([Share(GUEST, Job("matrix", pause=True))], heard)
