"""A state file belongs to its owner from the moment it exists until the owner ends. Then `clean` undoes its entries."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataplanes.errors import BenchError, Prerequisite
from dataplanes.kernel import netns, process
from scenarios import journal
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setenv("BENCH_STATE", str(directory))
    return directory


def killed(work: str) -> None:
    """Run a process that does some work with a journal, and dies of kill -9."""
    code = f"import os\nfrom scenarios.journal import Journal\n{work}\nos.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT)
    assert done.returncode == -9


@contextmanager
def living(work: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds a journal."""
    code = f"import sys\nfrom scenarios.journal import Journal\njournal = Journal()\n{work}\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as owner:
        assert owner.stdout
        owner.stdout.readline()
        yield owner
        owner.kill()


def written(state: Path, *lines: object, run: str = "b012345") -> Path:
    """Write a state file as a dead run leaves it."""
    state.mkdir(mode=0o700, exist_ok=True)
    file = state / f"{run}.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "ascii")
    return file


_STRUCK = """
import os, signal
from dataplanes.kernel import interrupt
from scenarios import journal
interrupt.catch()
new = journal._new
journal._new = lambda base: (new(base), os.kill(os.getpid(), signal.SIGINT))[0]
with journal.Journal():
    pass
"""


def test_a_signal_while_the_file_is_made_leaves_none(state: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _STRUCK], check=False, cwd=ROOT, stderr=subprocess.PIPE)
    assert b"KeyboardInterrupt: 2" in done.stderr
    assert not state.exists()


def test_a_run_that_dies_before_it_has_written_anything_leaves_nothing(state: Path) -> None:
    killed("Journal()")
    assert len(list(state.iterdir())) == 1
    assert journal.clean() == []
    assert not state.exists()


def test_what_a_dead_run_made_is_removed_also_when_it_died_in_the_middle_of_a_line(state: Path, tmp_path: Path) -> None:
    made = "open(journal.partial(path), 'w').close(); os.mkdir(journal.partial(path + '.d'))"
    killed(f"journal = Journal(); path = {str(tmp_path / 'file')!r}; {made}; os.write(journal._handle, b'[\"part')")
    assert len(list(tmp_path.glob(".file*"))) == 2
    assert [line.split()[1] for line in journal.clean()] == ["partial", "partial"]
    assert not list(tmp_path.glob(".file*"))
    assert not state.exists()


def test_a_live_runs_state_is_left_alone_and_so_is_what_is_no_state(state: Path, tmp_path: Path) -> None:
    with journal.Journal() as mine:
        made = Path(mine.partial(tmp_path / "file"))
        made.touch()
        (state / "notes.jsonl").touch()
        assert journal.clean() == []
        with living():
            assert journal.clean() == []
            assert len(os.listdir(state)) == 3
        assert journal.clean() == []
        assert len(os.listdir(state)) == 2
        assert made.exists()
    assert os.listdir(state) == ["notes.jsonl"]
    assert not made.exists()


def test_a_child_that_outlives_the_owner_does_not_keep_its_state_from_being_cleaned(state: Path) -> None:
    """The lab's resolver is such a child: it is forked, and never becomes another program."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    work = f"""
from dataplanes.kernel import process
journal = Journal()
if not os.fork():
    process.keep_only({writing})
    os.write({writing}, str(os.getpid()).encode())
    os.pause() if hasattr(os, "pause") else __import__("signal").pause()
os.read({reading}, 0)"""
    code = f"import os\nfrom scenarios.journal import Journal\n{work}\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, pass_fds=(reading, writing))
    child = int(os.read(reading, 16))
    os.close(reading)
    os.close(writing)
    try:
        assert journal.clean() == []
        assert not state.exists()
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_cleans_at_once_do_each_thing_once(state: Path, tmp_path: Path) -> None:
    for number in range(20):
        run = f"b{number:06x}"
        left = tmp_path / f".file.{run}"
        left.touch()
        written(state, ["partial", str(left)], run=run)
    told: list[str] = []
    cleaning = [threading.Thread(target=lambda: told.extend(journal.clean())) for _ in range(4)]
    for each in cleaning:
        each.start()
    for each in cleaning:
        each.join()
    assert len(told) == len(set(told)) == 20
    assert not state.exists()


def test_a_file_that_a_clean_removed_is_nobodys(state: Path) -> None:
    """Between the creation of a state file and its lock a `clean` may take it for a dead run's.

    Then another is created.
    """
    stop = threading.Event()

    def clean() -> None:
        while not stop.is_set():
            journal.clean()

    cleaning = threading.Thread(target=clean)
    cleaning.start()
    try:
        for _ in range(300):
            with journal.Journal() as mine:
                assert os.path.exists(mine._path)
    finally:
        stop.set()
        cleaning.join()


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(journal, "ETC", str(tmp_path / "netns"))
    return tmp_path / "netns"


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_of_two_runs_removes_the_directory_that_they_share(first: int, etc: Path) -> None:
    runs = [journal.Journal(), journal.Journal()]
    for each in runs:
        for container in ("web.1", "web.2"):
            each.etc(f"{each.run}-{container}")
    runs.pop(first).undo()
    assert len(list(etc.iterdir())) == 2
    runs.pop().undo()
    assert not etc.exists()


def test_a_directory_that_somebody_else_made_stays(etc: Path) -> None:
    etc.mkdir()
    with journal.Journal() as mine:
        mine.etc(f"{mine.run}-web.1")
    assert not list(etc.iterdir())


def test_runs_that_come_and_go_share_a_directory(etc: Path) -> None:
    def runs() -> None:
        for _ in range(200):
            with journal.Journal() as mine:
                assert os.path.isdir(mine.etc(f"{mine.run}-web.1"))

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(runs) for _ in range(4)]:
            each.result()
    assert not etc.exists()


@pytest.mark.parametrize(
    "line",
    [
        ["netns", "../../tmp/victim"],
        ["netns", "b012345-../../../tmp/victim"],
        ["netns", "b999999-web.1"],  # another run's entry
        ["netns", "mine"],
        ["cgroup", "/sys/fs/cgroup/system.slice"],
        ["cgroup", "/sys/fs/cgroup/vip-bench-b012345/../system.slice"],
        ["partial", "/tmp/victim"],
        ["partial", "/tmp/../etc/.passwd.b012345"],
        ["partial", "relative/.file.b012345"],
        ["scratch", "/home"],
        ["etc", "/etc/netns/b012345-/../../passwd"],
        ["etc", "/etc"],
        ["empty-directory", "/tmp"],
        ["process", "1"],
        ["process", "1; reboot"],
        ["file", "/etc/passwd"],
        ["netns", 5],
        ["netns"],
        [["netns"], "b012345-web.1"],
        5,
        None,
        {"netns": "b012345-web.1"},
    ],
)
def test_a_name_that_is_not_ours_is_not_touched_and_told(
    line: object, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[str] = []
    kinds = {kind: (undone.append, shape) for kind, (_, shape) in journal._KINDS.items()}
    monkeypatch.setattr(journal, "_KINDS", kinds)
    file = written(state, ["netns", "b012345-web.1"], line, ["netns", "b012345-web.2"])
    with pytest.raises(BenchError, match=f"{file}:2: nothing was removed for it"):
        journal.clean()
    assert undone == ["b012345-web.2", "b012345-web.1"]
    assert file.exists()


def test_garbage_is_an_error_of_ours(state: Path) -> None:
    for number, data in enumerate((b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\0\0\n", b"1e999\n")):
        written(state, run=f"b{number:06x}").write_bytes(data)
    with pytest.raises(BenchError, match="it is not a line this program writes"):
        journal.clean()


def test_what_is_recorded_has_the_runs_name_in_it() -> None:
    with journal.Journal() as mine, pytest.raises(AssertionError):
        mine.record("netns", "web.1")


def test_names_that_a_run_records_are_undone(state: Path) -> None:
    """The entries of the lab, the cgroups and the kernels' packages have the shapes that `clean` accepts."""
    with journal.Journal() as mine:
        for name in ("underlay", "worker1", "worker1.my-network", "lb.worker1.my-network", "my-web.1.behind"):
            assert journal._is_ours("netns", f"{mine.run}-{name}", mine.run)
            assert journal._is_ours("etc", f"/etc/netns/{mine.run}-{name}", mine.run)
            assert journal._is_ours("cgroup", f"/sys/fs/cgroup/vip-bench-{mine.run}/{name}", mine.run)
        assert journal._is_ours("cgroup", f"/sys/fs/cgroup/vip-bench-{mine.run}", mine.run)
        assert journal._is_ours("process", process.identity(os.getpid()), mine.run)
        Path(mine.scratch("file")).touch()
    assert not state.exists()
    assert netns.RUN == "/run/netns"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.symlink_to(path.parent), "it is not a directory"),
        (lambda path: path.touch(), "File exists|it is not a directory"),
        (lambda path: path.mkdir() or path.chmod(0o777), "others can write to it"),
        (lambda path: path.mkdir() or path.chmod(0o770), "others can write to it"),
    ],
    ids=["link", "file", "world", "group"],
)
def test_a_directory_where_others_could_write_is_not_used(make: object, why: str, state: Path) -> None:
    assert callable(make)
    make(state)
    with pytest.raises(Prerequisite, match=why):
        journal.Journal()
    with pytest.raises(Prerequisite, match=why.partition("|")[2] or why):
        journal.clean()


def test_a_directory_of_another_user_is_not_used(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(state, ["netns", "b012345-web.1"])
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Prerequisite, match="it belongs to another user"):
        journal.clean()
    with pytest.raises(Prerequisite, match="it belongs to another user"):
        journal.Journal()


def test_the_directory_is_for_its_owner_alone(state: Path) -> None:
    with journal.Journal() as mine:
        assert state.stat().st_mode & 0o777 == 0o700
        assert os.stat(mine._path).st_mode & 0o777 == 0o600


def test_a_full_disk_is_an_error_of_ours_and_leaves_nothing(state: Path, tmp_path: Path) -> None:
    """The kernel's limit for a file's size stands in for a full disk: the write fails half-way in both cases."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    made: list[Path] = []

    def make_many() -> None:
        with journal.Journal() as mine:
            for number in range(100):
                path = Path(mine.partial(tmp_path / str(number)))
                path.touch()
                made.append(path)

    try:
        with pytest.raises(BenchError, match="cannot write the state file"):
            make_many()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert made
    assert not any(path.exists() for path in made)
    assert not state.exists()


def test_a_process_is_killed_by_its_own_name_only() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        name = process.identity(child.pid)
        number, started, namespace, boot = name.split(".")
        for other in (
            (number, "1", namespace, boot),
            (number, started, "1", boot),
            (number, started, namespace, "0-0"),
        ):
            process.end(".".join(other))
        assert process.identity(child.pid) == name
        process.end(name)
        assert child.wait(10) == -signal.SIGKILL
    assert process.identity(child.pid) == ""
    process.end(name)
