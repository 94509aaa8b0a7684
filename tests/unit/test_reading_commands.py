"""The commands that read documents: their forms, their exit codes, and the one that makes the whole data set."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import api
from bench.kernels import Kernel
from bench.outside import choose
from bench.outside import publish as publishing
from bench.outside.publish import Step
from bench.prepare import objects
from bench.report import model
from dataplanes.selection import Selection
from tests.conftest import ROOT
from tests.recorded import MATRIX, RUN, replay
from tests.unit.conftest import Bench
from tests.unit.test_story import recorded
from tests.unit.test_trace_command import kernel as traced

RESULT, CELLS = (str(ROOT / "results" / name) for name in ("readme/first.json", "matrix.json"))


def test_a_document_compared_with_itself_has_not_changed(bench: Bench) -> None:
    done = bench("compare", RESULT, RESULT)
    assert done.exit_code == 0, done.output
    assert " same " not in done.stdout, "only what differs is shown"
    assert done.stdout.splitlines()[-1].startswith("ok: ")
    assert " same " in bench("compare", RESULT, RESULT, "--all").stdout
    done = bench("compare", CELLS, CELLS, "--json")
    (told,) = json.loads(done.stdout)["comparisons"]
    assert (told["kind"], told["changes"], told["failures"]) == ("matrix", [], [])
    assert done.stderr.startswith("ok: ")


def test_what_is_lost_is_exit_1_and_the_last_line(bench: Bench, tmp_path: Path) -> None:
    changed = json.loads(Path(CELLS).read_bytes())
    cell = next(each for each in changed["cells"] if each["outcome"] == "pass")
    cell["outcome"] = "fail"
    new = tmp_path / "new.json"
    new.write_text(json.dumps(changed))
    done = bench("compare", CELLS, str(new))
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("FAILED: ")
    assert cell["check"] in done.stdout


def test_a_slower_plane_fails_where_a_rule_says_so(bench: Bench, tmp_path: Path) -> None:
    slower = api.load(RESULT)
    assert isinstance(slower, api.Measured)
    for trial in slower.result.trials:
        if trial.dataplane == "ipvs-container":
            trial.figures["connections_per_second"] *= 0.9
    new = tmp_path / "new.json"
    slower.save(new)
    assert bench("compare", RESULT, str(new), "--fail-on", "connections_per_second:-15%").exit_code == 0
    done = bench("compare", RESULT, str(new), "--fail-on", "connections_per_second:-5%", "--noise", "1")
    assert done.exit_code == 1
    assert "noise threshold 1.0%" in done.stdout
    assert "worse" in done.stdout
    (told,) = json.loads(bench("compare", RESULT, str(new), "--json").stdout)["comparisons"]
    assert {each["dataplane"] for each in told["differences"] if each["verdict"] == "worse"} == {"ipvs-container"}


@pytest.fixture
def slower(tmp_path: Path) -> str:
    """The first example, 2 % slower on one plane and without a metric on the other."""
    made = api.load(RESULT)
    assert isinstance(made, api.Measured)
    for trial in made.result.trials:
        if trial.dataplane == "ipvs-container":
            trial.figures["connections_per_second"] *= 0.98
        else:
            del trial.figures["connect_p99_us"]
    path = tmp_path / "a 50%, slower.json"
    made.save(path)
    return str(path)


FAILURES = ("direct crr connect_p99_us is not in ", "ipvs-container crr connections_per_second -2.0% [")


def test_annotations_name_each_failure(bench: Bench, slower: str) -> None:
    done = bench("compare", RESULT, slower, "--fail-on", "connections_per_second:-1%", "--format", "github")
    errors = [each for each in done.stdout.splitlines() if each.startswith("::error ")]
    assert [each.split("::")[1] for each in errors] == [
        f"error title={slower.replace('%', '%25').replace(',', '%2C')}"
    ] * 2
    for said, failure in zip(errors, FAILURES, strict=True):
        assert said.split("::")[2].startswith(failure.replace("%", "%25"))
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith(f"FAILED: {FAILURES[0]}")


def test_a_comment_begins_with_the_verdict_and_shows_what_differs(bench: Bench, slower: str) -> None:
    done = bench("compare", RESULT, slower, "--fail-on", "worse", "--format", "markdown")
    assert done.stdout.startswith(f"**FAILED: {FAILURES[0]}")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ") and "data plane" not in line]
    (worse,) = [row for row in rows if row.endswith(" worse |")]
    assert worse.startswith("| ipvs-container | ")
    assert not [row for row in rows if row.endswith(" same |")]
    everything = bench("compare", RESULT, slower, "--format", "markdown", "--all").stdout
    assert len([line for line in everything.splitlines() if line.startswith("| ")]) > 10


def test_junit_has_a_case_for_everything_that_was_compared(bench: Bench, slower: str) -> None:
    fail_on = ("--fail-on", "connections_per_second:-1%", "--format", "junit")
    assert bench("compare", RESULT, slower, *fail_on, "-o", "compared.xml").exit_code == 1
    (suite,) = ET.fromstring(Path("compared.xml").read_bytes())
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["ipvs-container crr connections_per_second", f"{FAILURES[0]}{slower}"]
    assert (suite.get("failures"), suite.get("tests")) == ("2", str(len(suite)))
    assert len(suite) > 10
    assert bench("compare", RESULT, RESULT, "--format", "junit").stdout.count("<failure") == 0


def test_a_table_is_written_to_a_file_like_the_other_forms(bench: Bench, slower: str) -> None:
    shown = bench("compare", RESULT, slower)
    assert bench("compare", RESULT, slower, "-o", "compared.txt").stdout == f"{shown.stdout.splitlines()[-1]}\n"
    assert shown.stdout.startswith(Path("compared.txt").read_text("utf-8"))


def test_a_report_has_the_form_of_its_file(bench: Bench) -> None:
    on_stdout = bench("report", RESULT, CELLS).stdout
    assert bench("report", RESULT, CELLS, "-o", "r.md").exit_code == 0
    assert Path("r.md").read_text("utf-8") == on_stdout
    assert bench("report", RESULT, "-o", "r.csv").exit_code == 0
    rows = list(csv.DictReader(io.StringIO(Path("r.csv").read_text("utf-8"))))
    assert {row["plane"] for row in rows} == {"direct", "ipvs-container"}
    assert bench("report", RESULT, CELLS, "-o", "r.html").exit_code == 0
    assert Path("r.html").read_text("utf-8").startswith("<!doctype html>")
    assert bench("report", RESULT, "-o", "r.json").exit_code == 0
    assert json.loads(Path("r.json").read_bytes())
    done = bench("report", RESULT, "-o", "r.pdf")
    assert (done.exit_code, "cannot write .pdf (one of .html" in done.stderr) == (2, True)


def test_the_answer_without_files_is_the_published_data_s(bench: Bench) -> None:
    published = bench("answer", *publishing.documents(model.PUBLISHED)).stdout
    assert sorted(bench("answer").stdout.splitlines()) == sorted(published.splitlines())
    assert bench("answer", *publishing.documents(model.PUBLISHED), "--language", "zh", "-o", "a.md").exit_code == 0
    assert Path("a.md").read_text("utf-8") == (ROOT / "docs" / "answer.zh.md").read_text("utf-8")


@pytest.fixture
def steps(bench: Bench, machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A data set of what was recorded, made in this process; the commands that were run."""
    machine["traced"] = traced(recorded("page"))
    monkeypatch.setattr(objects, "compile_missing", lambda needs, kernel: None)
    monkeypatch.setattr(
        publishing,
        "STEPS",
        (
            Step("matrix.json", (*MATRIX, "-o")),
            Step("connections.json", (*RUN, "-o")),
            Step("planes/nft-lb.svg", ("trace", "-d", "nft-lb", "--kernel", "traced", "--svg")),
        ),
    )
    commands: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], **more: object) -> object:
        commands.append(argv[3:])
        return SimpleNamespace(returncode=bench(*argv[3:]).exit_code)

    monkeypatch.setattr(publishing, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    return commands


def test_the_data_set_is_made_by_one_command(bench: Bench, steps: list[tuple[str, ...]]) -> None:
    done = bench("publish", "set", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert [command[0] for command in steps] == ["matrix", "run", "trace"]
    assert ["--jobs" in command for command in steps] == [True, True, False]
    assert {str(path.relative_to("set")) for path in Path("set").rglob("*") if path.is_file()} == {
        *("matrix.json", "connections.json", "planes/nft-lb.svg", "report.html", "answer.md")
    }
    again = bench("publish", "set")
    assert len(steps) == 3
    assert [line.endswith("there already") for line in again.stderr.splitlines()] == [True] * 3


def test_the_data_set_goes_on_where_a_step_failed(
    bench: Bench, machine: dict[str, Kernel], steps: list[tuple[str, ...]]
) -> None:
    machine["debian-6.12"] = replay(code=9)
    done = bench("publish", "set")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "bench: matrix.json was not made: bench matrix ended with 1"
    machine["debian-6.12"] = replay()
    assert bench("publish", "set").exit_code == 0
    assert [command[0] for command in steps] == ["matrix", "matrix", "run", "trace"]


def test_a_document_that_tells_of_failures_is_one_of_the_data_set(
    bench: Bench, steps: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials may fail: at 50,000 services the tables of eBPF planes are full, and what the kernel says is a finding."""

    def run(argv: tuple[str, ...], **more: object) -> object:
        code = bench(*argv[3:]).exit_code
        return SimpleNamespace(returncode=code or int(argv[3] == "run"))

    monkeypatch.setattr(publishing, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    done = bench("publish", "set", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "bench: connections.json: bench run ended with 1; the document tells what failed" in done.stderr.splitlines()
    assert Path("set/report.html").exists()


def test_an_interrupted_step_ends_the_data_set_whatever_it_has_written(
    bench: Bench, steps: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: tuple[str, ...], **more: object) -> object:
        bench(*argv[3:])
        return SimpleNamespace(returncode=130)

    monkeypatch.setattr(publishing, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    done = bench("publish", "set", "--jobs", "1")
    assert Path("set/matrix.json").exists()
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "bench: matrix.json was not made: bench matrix ended with 130"


TIMED = ("run", *RUN[RUN.index("--kernel") :])
"""A run whose planes the step names. What was recorded stands for this machine's own kernel."""


@pytest.mark.parametrize(
    ("lacking", "planes"),
    [(("ipvs-lb",), "direct,nft-lb"), (("ipvs-lb", "nft-lb"), ""), (("nft-lb",), "direct,ipvs-lb")],
)
def test_what_is_measured_by_time_is_what_this_machine_s_own_kernel_can_run(
    bench: Bench,
    machine: dict[str, Kernel],
    steps: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    lacking: tuple[str, ...],
    planes: str,
) -> None:
    machine["host"] = machine["debian-6.12"]

    def obstacle(host: Kernel, selections: Sequence[Selection]) -> str:
        assert host is machine["host"]
        return ", ".join(each.name for each in selections if each.name in lacking)

    monkeypatch.setattr(choose, "obstacle", obstacle)
    step = Step("wall.json", (*TIMED, "-o"), by_time=("direct", "nft-lb", "ipvs-lb"))
    monkeypatch.setattr(publishing, "STEPS", (step,))
    done = bench("publish", "set", "--jobs", "1")
    assert done.exit_code == 0, done.output
    if planes:
        assert steps == [("run", "--dataplane", planes, *TIMED[1:], "-o", "set/wall.json")], "guests are not its matter"
        assert publishing.documents(Path("set")) == ["set/wall.json"]
    else:
        assert steps == []
        assert "wall.json: left out, because no data plane can run on this machine's own kernel" in done.stderr
        assert not Path("set/wall.json").exists()
