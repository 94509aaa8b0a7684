"""action.yml as a runner runs it: its steps one after another in bash, in a repository with a plane file."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.program.command import bench, soonest
from tests.program.test_bring_your_own import FAULTS

ACTION = (ROOT / "action.yml").read_text("utf-8")
_STEP = re.compile(
    r"^    - name: (?P<name>.+)\n(?:      id: (?P<id>\w+)\n)?(?:      if: .+\n)?      shell: bash\n"
    r"(?:      env:\n(?P<env>(?:        .+\n)+))?      run: \|\n(?P<run>(?:        .*\n|\n)+)",
    re.M,
)
STEPS = {step["name"]: step for step in _STEP.finditer(ACTION)}


class Runner:
    """What GitHub does: expressions are replaced, outputs are kept, the rest is bash."""

    def __init__(self, directory: Path, **inputs: str) -> None:
        self.repository, self.temporary = directory / "repository", directory / "temporary"
        for each in (self.repository, self.temporary, directory / "bin"):
            each.mkdir()
        self.values = {f"inputs.{name.replace('_', '-')}": value for name, value in (_defaults() | inputs).items()}
        self.values |= {"inputs.token": "secret", "github.event.pull_request.number": "7"}
        recorder = directory / "bin" / "gh"
        recorder.write_text('#!/bin/sh\necho "$@" >"$0.arguments"\nfor last; do :; done\ncat "$last" >"$0.comment"\n')
        recorder.chmod(0o755)
        self.gh = recorder
        self.action = ROOT

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=self.repository, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        step = STEPS[name]
        output = self.temporary / "output"
        output.write_text("")
        environment = {
            "PATH": f"{self.gh.parent}:{os.environ['PATH']}",
            "GITHUB_ACTION_PATH": str(self.action),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.temporary / "summary"),
            "RUNNER_TEMP": str(self.temporary),
        }
        for key, expression in re.findall(r"^\s+(\w+): \$\{\{ (.+) \}\}$", step["env"] or "", re.M):
            environment[key] = self.values[expression]
        script = self.temporary / "step.sh"
        script.write_text(re.sub(r"^ {8}", "", step["run"], flags=re.M))
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.repository,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1200,
        )
        for key, value in re.findall(r"^(\w+)=(.*)$", output.read_text(), re.M):
            self.values[f"steps.{step['id']}.outputs.{key}"] = value
        return done

    def gate(self) -> subprocess.CompletedProcess[str]:
        """Run all steps. Only the last may fail."""
        for name in list(STEPS)[:-1]:
            done = self.run(name)
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return self.run([*STEPS][-1])


def _defaults() -> dict[str, str]:
    inputs = re.findall(r'^  ([\w-]+):\n    description: .+\n    default: "?(.*?)"?$', ACTION, re.M)
    return {name.replace("-", "_"): value for name, value in inputs}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    made = Runner(tmp_path, plane="./my-plane/my-plane.toml", checks="change.drain or reach.payload", measure="false")
    assert bench("plane", "new", "my-plane", cwd=made.repository).returncode == 0
    made.git("init", "-q")
    made.values["inputs.kernel"] = soonest(f"{made.repository}/my-plane/my-plane.toml")
    made.values["inputs.base"] = made.commit()
    return made


def test_every_step_with_a_script_is_run_here() -> None:
    assert [*STEPS] == ["Prepare", "Observe and measure", "Compare", "Comment", "Decide"]
    assert len(re.findall(r"^      run: ", ACTION, re.M)) == len(STEPS)
    assert len(re.findall(r"^        [A-Z_]+: ", ACTION, re.M)) == sum(
        len((step["env"] or "").splitlines()) for step in STEPS.values()
    )


def test_a_lost_clause_fails_the_pull_request_and_is_named(runner: Runner) -> None:
    program = runner.repository / "my-plane" / "my-plane"
    old, new, _ = FAULTS["shell"]["a drained backend gets its turns"]
    program.write_text(program.read_text("utf-8").replace(old, new), "utf-8")
    runner.commit()
    done = runner.gate()
    assert done.returncode == 1
    (told,) = done.stdout.splitlines()
    assert re.match(r"FAILED: \S+ my-plane change\.drain pass -> fail: ", told), told
    comment = Path(f"{runner.gh}.comment").read_text("utf-8")
    assert comment.startswith("**FAILED: ")
    assert "reach.payload" not in comment, "only what differs is told"
    assert Path(f"{runner.gh}.arguments").read_text().startswith("pr comment 7 --edit-last --create-if-none ")
    assert comment == (runner.temporary / "summary").read_text("utf-8")
    assert runner.git("worktree", "list").count("\n") == 0, "the base's tree is removed"


def observed(runner: Runner, directory: Path) -> tuple[int, list[str]]:
    """Run the step that observes with a program that only writes its arguments down, and return these."""
    runner.action = directory / "action"
    runner.action.mkdir()
    (runner.action / "run").write_text('#!/bin/sh\necho "$@" >>"$0.arguments"\n')
    (runner.action / "run").chmod(0o755)
    done = runner.run("Observe and measure")
    return done.returncode, (runner.action / "run.arguments").read_text("utf-8").splitlines()


@pytest.fixture
def changed(tmp_path: Path) -> Runner:
    """A shallow checkout with a plane file, whose origin has an earlier commit with it, too."""
    runner = Runner(tmp_path, plane="./my-plane.toml", measure="false")
    runner.git("init", "-q", "-b", "main")
    (runner.repository / "my-plane.toml").write_text("")
    first = runner.commit()
    runner.git("checkout", "-q", "-b", "change")
    runner.commit()
    runner.git("clone", "-q", "--bare", ".", str(tmp_path / "origin"))
    runner.repository = tmp_path / "shallow"
    subprocess.run(
        ["git", "clone", "-q", "--depth=1", "-b", "change", f"file://{tmp_path}/origin", str(runner.repository)],
        check=True,
    )
    runner.values["first"] = first
    return runner


@pytest.mark.parametrize(
    ("base", "sides"),
    [
        ("", ["new"]),  # a run by hand or by schedule has no commit before it
        ("0" * 40, ["new"]),  # nor has a new branch
        ("{first}", ["new", "base"]),
        ("main", ["new", "base"]),
    ],
)
def test_the_base_is_observed_if_the_event_has_one(
    base: str, sides: list[str], changed: Runner, tmp_path: Path
) -> None:
    changed.values["inputs.base"] = base.format(**changed.values)
    code, lines = observed(changed, tmp_path)
    assert (code, [re.findall(r"vip-bench/(\w+)/matrix", line)[0] for line in lines]) == (0, sides)


def test_a_base_that_cannot_be_fetched_is_no_pass(changed: Runner, tmp_path: Path) -> None:
    changed.values["inputs.base"] = "1" * 40
    assert observed(changed, tmp_path)[0] != 0


def test_without_a_base_the_expected_outcomes_decide_and_the_cost_is_measured(runner: Runner) -> None:
    """The plane file is new in this pull request."""
    runner.git("checkout", "-q", "--orphan", "empty")
    runner.git("rm", "-rq", "--cached", ".")
    runner.values |= {
        "inputs.base": runner.git("commit-tree", "-m", "empty", runner.git("write-tree")),
        "inputs.measure": "true",
        "inputs.run-options": "--repeat 1 --connections 200",
    }
    runner.commit()
    done = runner.gate()
    assert (done.returncode, done.stdout) == (0, "ok, and there is no base\n"), done.stderr
    comment = Path(f"{runner.gh}.comment").read_text("utf-8")
    assert "connections/s" in comment
    assert "my-plane" in comment
    assert {path.name for path in (runner.temporary / "vip-bench" / "new").glob("*.json")} == {
        "matrix.json",
        "run.json",
    }
