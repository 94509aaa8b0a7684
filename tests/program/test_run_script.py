"""`./run COMMAND...` prepares a checkout once, and then only runs the command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


def run(root: Path, *command: str, **options: object) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str]
    done = subprocess.run([root / "run", *command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    return done


@pytest.fixture
def clone(root: Path) -> Iterator[Path]:
    """Return a checkout that nobody has prepared yet, and that every user may read."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, "a checkout")  # a blank in the path must not matter
        shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".tox", "results", "__pycache__"))
        Path(directory).chmod(0o755)
        yield copy


def test_without_a_command_it_prints_the_usage(root: Path) -> None:
    done = run(root)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ./run COMMAND...")


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_the_exit_code_is_the_commands(root: Path, code: int) -> None:
    assert run(root, "sh", "-c", f"exit {code}").returncode == code


def test_a_command_that_does_not_exist(root: Path) -> None:
    done = run(root, "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_input_output_and_errors_are_the_commands_alone(root: Path) -> None:
    done = run(root, "sh", "-c", "cat; echo oops >&2", input="one\ntwo\n")
    assert (done.stdout, done.stderr) == ("one\ntwo\n", "oops\n")


def test_arguments_and_directory_are_left_alone(root: Path, tmp_path: Path) -> None:
    program = "import os, sys; print([os.getcwd(), *sys.argv[1:]])"
    arguments = ["two words", "", "*", "'\"$HOME\\", "-e"]
    done = run(root, "python", "-c", program, *arguments, cwd=tmp_path)
    assert done.stdout == f"{[str(tmp_path), *arguments]}\n"


def test_it_works_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(root / "run")
    assert run(tmp_path, "python", "-c", "import bench; print(bench.__file__)").stdout == f"{root}/bench/__init__.py\n"


def test_it_becomes_the_command_so_that_signals_reach_it(root: Path) -> None:
    with subprocess.Popen([root / "run", "sh", "-c", "echo $$; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(signal.SIGTERM)  # under a shell's "&" SIGINT is ignored
        assert process.wait(10) == -signal.SIGTERM


def test_the_distributions_modules_are_seen_whatever_python_is_first(root: Path, tmp_path: Path) -> None:
    for name in ("python", "python3"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 99\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = run(root, "python", "-c", "import bcc, nftables; print('both')", env=environment)
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


def test_a_prepared_checkout_costs_less_than_a_second(root: Path) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        assert run(root, "true").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1


def test_what_cannot_be_installed_is_named_with_the_way_to_get_it(clone: Path) -> None:
    """The user may not install packages. A user who may is told that apt does not have it, and reads the same."""
    with (clone / "bench" / "prepare" / "needs").open("a") as needs:
        needs.write("no-such-package command no-such-command\n")
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    done = run(clone, "true", **user)
    assert (done.returncode, done.stdout) == (3, "")
    assert "run: missing: command no-such-command (no-such-package)\n" in done.stderr
    assert "sudo apt-get install -y --no-install-recommends no-such-package\n" in done.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.night
def test_a_fresh_checkout_killed_half_way_then_prepared_once_by_two_at_once(clone: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [clone / "run", "bench", "--version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    with start() as killed:
        assert killed.stderr is not None
        assert any("installing the Python packages" in line for line in killed.stderr)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not (clone / ".venv/prepared").exists()

    with start() as one, start() as other:
        (out_one, err_one), (out_other, err_other) = one.communicate(timeout=300), other.communicate(timeout=300)
    assert (one.returncode, other.returncode) == (0, 0), err_one + err_other
    assert out_one == out_other
    assert out_one.count("\n") == 1
    assert (err_one + err_other).count("run: creating") == 1
