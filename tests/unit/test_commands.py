"""The commands from their arguments to their documents, on a kernel that tells again what a real one told."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from msgspec.structs import replace

from bench import api
from bench.analysis.intervals import summarise
from bench.documents import Event
from bench.kernels import Kernel
from bench.report import result_table
from dataplanes import catalog, follower
from tests.recorded import COMMANDS, MATRIX, RUN, Replay, read, replay
from tests.unit.conftest import Bench
from tests.unit.test_story import recorded as flow_recorded


def measured(path: str) -> api.Measured:
    found = api.load(path)
    assert isinstance(found, api.Measured)
    return found


def spoilt(event: Event) -> Event:
    """The event of a plane that reached no backend, or showed something else than expected."""
    if event.kind == "trial" and event.data["dataplane"] != "direct":
        return msgspec.structs.replace(event, data=event.data | {"metrics": {}, "error": "no backend answered"})
    if event.kind == "cell":
        return msgspec.structs.replace(event, data=event.data | {"outcome": "error", "detail": "no lab"})
    return event


def test_a_run_writes_what_the_kernel_told(bench: Bench) -> None:
    done = bench(*RUN, "-o", "result.json")
    assert done.exit_code == 0, done.output
    told = {trial.key(): trial for trial in (read("run").trials())}
    result = measured("result.json").result
    assert len(result.trials) == 6  # three rounds of the reference and the plane
    assert [trial for trial in result.trials if trial != told[trial.key()]] == []
    assert [(row.dataplane, row.n) for row in result.summary] == [("direct", 3), ("nft-lb", 3)]
    assert result.environment["kernel_name"] == read("run").kernel.name
    assert not Path("result.json.trials").exists()
    assert "nft-lb" in done.stdout
    assert "6 trials" in done.stderr


def test_rounds_are_interleaved_and_the_reference_comes_first(bench: Bench, machine: dict[str, Kernel]) -> None:
    bench(*RUN)
    kernel = machine["debian-6.12"]
    assert isinstance(kernel, Replay)
    (job,) = kernel.jobs
    assert [(trial.round, trial.dataplane) for trial in job.trials] == [
        *((1, "direct"), (1, "nft-lb"), (2, "nft-lb"), (2, "direct"), (3, "direct"), (3, "nft-lb")),
    ]


def test_a_document_on_stdout_stands_alone(bench: Bench) -> None:
    done = bench(*RUN, "-o", "-")
    assert [row["workload"] for row in json.loads(done.stdout)["summary"]] == ["crr", "crr"]
    matrix = bench(*MATRIX, "-o", "-")
    assert len(json.loads(matrix.stdout)["cells"]) == 2


def test_rounds_are_written_for_pytest_benchmark(bench: Bench) -> None:
    assert bench(*RUN, "--benchmark-json", "rounds.json").exit_code == 0
    written = json.loads(Path("rounds.json").read_bytes())
    assert [each["stats"]["rounds"] for each in written["benchmarks"]] == [3, 3]


def test_a_dry_run_shows_the_plan_and_asks_the_kernel_for_nothing(bench: Bench, machine: dict[str, Kernel]) -> None:
    done = bench(*RUN, "--services", "1,10", "--dry-run", "-o", "result.json")
    assert done.exit_code == 0, done.output
    assert "10 more services" in done.stdout
    assert "12 trials, about" in done.stdout
    assert not Path("result.json").exists()
    kernel = machine["debian-6.12"]
    assert isinstance(kernel, Replay)
    assert kernel.jobs == []


def test_a_plane_without_a_figure_is_exit_1_with_its_reason(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = replay(edit=spoilt)
    done = bench(*RUN)
    assert done.exit_code == 1
    assert "nft-lb: no number, no backend answered" in done.stdout


def test_the_generators_agreement_is_a_ratio_of_planes(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(*COMMANDS["run"], "-o", "result.json").exit_code == 0
    ours = measured("result.json").result
    rates = {"nft-lb": 900.0, "ipvs-lb": 450.0}
    theirs = [
        msgspec.structs.replace(trial, workload="wrk", figures={"connections_per_second": rates[trial.dataplane]})
        for trial in ours.trials
        if trial.dataplane in rates
    ]
    result_table.show_agreement(msgspec.structs.replace(ours, summary=summarise([*ours.trials, *theirs])))
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "ipvs-lb" in line)
    assert "0.500" in row
    assert "over loopback the generator reaches" in shown


def test_the_second_run_knows_the_pace_of_the_first(bench: Bench) -> None:
    assert "at a guess" in bench(*RUN).stderr
    assert "at the last run's pace" in bench(*RUN).stderr


def test_a_matrix_is_written_in_every_form(bench: Bench) -> None:
    done = bench(*MATRIX, "-o", "m.json", "-o", "m.md", "--junit", "m.xml")
    assert done.exit_code == 0, done.output
    observed = api.load("m.json")
    assert isinstance(observed, api.Observed)
    told = {(event.data["dataplane"], event.data["check"]): event.data for event in read("matrix").events[1:]}
    assert {row["check"]: row["detail"] for row in observed.rows()} == {
        check: cell["detail"] for (plane, check), cell in told.items() if plane == "nft-lb" and "other-node" in check
    }
    assert "| reach.other-node |" in Path("m.md").read_text("utf-8")
    cases = ElementTree.parse("m.xml").findall(".//testcase")
    assert {case.get("name") for case in cases} == {"reach.other-node", "identity.source-other-node"}
    assert "nft-lb reach.other-node: pass" in done.stderr
    assert not Path("m-failures").exists()


def test_an_outcome_that_is_not_expected_is_exit_1(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = replay(edit=spoilt)
    done = bench(*MATRIX, "--junit", "m.xml")
    assert done.exit_code == 1
    assert "(expected pass): no lab" in done.stderr
    assert ElementTree.parse("m.xml").find(".//error") is not None


def test_the_story_of_each_cell_is_written_beside_the_matrix_if_asked_for(
    bench: Bench, machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = replace(flow_recorded("page"), command=["reach.other-node"], answer="pass: answered", source="")
    data = {"dataplane": "nft-lb", "check": "reach.other-node", "flow": msgspec.to_builtins(flow)}
    recording = read("matrix")
    recording.events.insert(2, Event("flow", data=data))
    machine["debian-6.12"] = made = Replay(recording)
    monkeypatch.setattr(follower, "REQUIRES", ())
    done = bench(*MATRIX, "-o", "m.json", "--trace")
    assert done.exit_code == 0, done.output
    (path,) = Path("m-traces").iterdir()
    assert path.name.endswith("nft-lb_reach.other-node.txt")
    assert "nft vip-my-network rr-1-8" in path.read_text()
    assert path.read_text().endswith("reach.other-node ended with pass: answered\n")
    assert [job.traced for job in made.jobs] == [True]
    assert '"trace":' not in Path("m.json").read_text("utf-8")


def test_a_cell_that_is_not_as_expected_has_the_story_of_its_packets_and_the_report_shows_it(
    bench: Bench, machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = read("matrix")
    cell = next(event for event in recording.events if event.kind == "cell" and event.data["outcome"] == "pass")
    cell.data["outcome"] = "fail"
    flow = msgspec.to_builtins(replace(flow_recorded("page"), command=[cell.data["check"]], source=""))
    about = {name: cell.data[name] for name in ("dataplane", "check")}
    recording.events.insert(recording.events.index(cell), Event("flow", data=about | {"flow": flow}))
    machine["debian-6.12"] = Replay(recording)
    monkeypatch.setattr(follower, "REQUIRES", ())
    assert bench(*MATRIX, "-o", "m.json", "--trace").exit_code == 1
    cells = json.loads(Path("m.json").read_text("utf-8"))["cells"]
    assert [each["check"] for each in cells if each.get("trace")] == [cell.data["check"]]
    assert bench("report", "m.json", "-o", "r.html").exit_code == 0
    page = Path("r.html").read_text("utf-8")
    assert page.count("The way of its packets: nft-lb on debian-6.12") == 1
    assert "lb.worker2.my-network eth0 PREROUTING" in page


def test_traces_need_a_file_to_be_beside(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = made = Replay(read("matrix"))
    assert (bench(*MATRIX, "--trace").exit_code, made.jobs) == (2, [])


def test_evidence_is_kept_beside_the_matrix(bench: Bench, machine: dict[str, Kernel]) -> None:
    about = {"dataplane": "nft-lb", "check": "reach.other-node", "again": "fail: no answer"}
    flow = replace(flow_recorded("page"), command=["reach.other-node"], answer="fail: no answer", source="")
    data = about | {"inspect": "worker1: ...", "packets": {"b1-my-web.1": "1MOyoQ=="}}
    data |= {"flow": msgspec.to_builtins(flow)}
    recording = read("matrix")
    cell = next(event for event in recording.events if event.data.get("check") == "reach.other-node")
    cell.data["outcome"] = "fail"
    recording.events.insert(recording.events.index(cell) + 1, Event("evidence", data=data))
    machine["debian-6.12"] = Replay(recording)
    bench(*MATRIX, "-o", "m.json")
    (place,) = Path("m-failures").iterdir()
    assert place.name.endswith("nft-lb_reach.other-node")
    assert (place / "again.txt").read_text() == "fail: no answer\n"
    assert (place / "inspect.txt").read_text() == "worker1: ...\n"
    assert (place / "b1-my-web.1.pcap").read_bytes() == bytes.fromhex("d4c3b2a1")
    told = (place / "trace.txt").read_text()
    assert "nft vip-my-network rr-1-8" in told
    assert told.endswith("reach.other-node ended with fail: no answer\n")
    cells = json.loads(Path("m.json").read_text("utf-8"))["cells"]
    assert [each["trace"] for each in cells if "trace" in each] == [told]


def test_evidence_tells_why_packets_were_not_followed(bench: Bench, machine: dict[str, Kernel]) -> None:
    about = {"dataplane": "nft-lb", "check": "reach.other-node", "again": "fail: no answer"}
    recording = read("matrix")
    recording.events.insert(2, Event("evidence", data=about | {"unfollowed": "this kernel has no BTF"}))
    machine["debian-6.12"] = Replay(recording)
    bench(*MATRIX, "-o", "m.json")
    (place,) = Path("m-failures").iterdir()
    assert (place / "trace.txt").read_text() == "this kernel has no BTF\n"
    assert '"trace":' not in Path("m.json").read_text("utf-8")


def test_a_matrix_in_which_all_is_skipped_is_exit_4(bench: Bench) -> None:
    done = bench("matrix", "-d", "nft-lb", "--kernel", "debian-6.12", "--clock", "wall", "-k", "idle.tcp-1000s")
    assert done.exit_code == 4
    assert "only the instruction clock makes free" in done.stderr


def test_a_walk_is_told_as_text_and_as_json(bench: Bench) -> None:
    inspect = ("inspect", "-d", "nft-lb", "--kernel", "debian-6.12")
    assert "\n+ " in bench(*inspect).stdout
    spaces = [each["kind"] for each in json.loads(bench(*inspect, "--json").stdout)["namespaces"]]
    assert spaces[-1] == "plane"
    assert "lb" in spaces


def test_the_lab_s_exit_code_is_its_command_s(bench: Bench) -> None:
    done = bench("lab", "-d", "direct", "--kernel", "debian-6.12", "sh", "-c", "exit 42")
    assert done.exit_code == 42
    assert "asked for" in done.stderr
    assert "takes one data plane" in bench("lab", "-d", "all", "--kernel", "debian-6.12", "true").stderr


def test_only_what_may_run_the_user_s_command_is_given_the_caller_s_stdin(
    bench: Bench, machine: dict[str, Kernel]
) -> None:
    """A shell's loop reads its list by the same stdin."""
    inspect = ("inspect", "-d", "nft-lb", "--kernel", "debian-6.12")
    for command in (RUN, MATRIX, inspect, COMMANDS["lab"], (*MATRIX, "--pause-on-fail")):
        assert bench(*command).exit_code in (0, 42)
    kernel = machine["debian-6.12"]
    assert isinstance(kernel, Replay)
    assert kernel.readers == ["lab", "matrix"]


def test_doctor_says_what_each_kernel_lacks(bench: Bench, machine: dict[str, Kernel]) -> None:
    assert bench("doctor").exit_code == 0
    recording = read("run")
    bare = msgspec.structs.replace(recording.kernel, name="bare", config={}, modules=[])
    machine.clear()
    machine["bare"] = Replay(msgspec.structs.replace(recording, kernel=bare))
    done = bench("doctor", "--json")
    assert done.exit_code == 3
    told = json.loads(done.stdout)
    assert list(told["dataplanes"]) == catalog.names()
    assert any(
        "built without CONFIG_NET_NS (use --kernel guest)" in line for line in told["dataplanes"]["direct"]["bare"]
    )
    assert "missing" in bench("doctor").stdout


@pytest.mark.parametrize("what", ["dataplanes", "scenarios", "checks", "workloads", "kernels"])
def test_lists_are_told_in_lines_and_in_json(bench: Bench, what: str) -> None:
    rows = json.loads(bench("list", what, "--json").stdout)
    lines = bench("list", what).stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(rows)]] == [row["name"] for row in rows]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_the_shell_s(bench: Bench, shell: str) -> None:
    done = bench("completion", shell)
    assert done.exit_code == 0
    assert "_BENCH_COMPLETE" in done.stdout
    assert shell in done.stdout


def test_there_is_nothing_to_clean_where_nothing_was_left(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_STATE", str(tmp_path / "state"))
    done = bench("clean")
    assert (done.exit_code, done.stdout) == (0, "")
