"""docs/adopt.md: the checks on a world that was built by hand, in which nothing is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import awaited
from tests.program import by_hand
from tests.program.command import bench

LEAST = 60
"""The number of checks that the world by hand must show."""


@pytest.fixture(scope="module")
def prefix() -> Iterator[str]:
    with by_hand.world(str(os.getpid())) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path, prefix: str) -> Path:
    path = tmp_path / "world.toml"
    path.write_text(by_hand.described(prefix))
    return path


_SEEN = (
    ("ip", "-4", "-o", "address"),  # IPv6 gives itself addresses, which become ready by and by
    ("ip", "-4", "route", "show", "table", "all"),
    ("ip", "rule"),
    ("nft", "list", "ruleset"),
    ("cat", "/proc/net/ip_tables_names"),
    ("sh", "-c", "cd /proc/sys/net && grep -rs . . | grep -v nf_conntrack_count | sort"),
)


def _state(name: str | None) -> dict[str, str]:
    """Return what an administrator sees in a namespace, or in the one of this test."""
    inside = ("ip", "netns", "exec", name) if name else ()
    return {
        " ".join(argv): subprocess.run((*inside, *argv), capture_output=True, text=True, check=False).stdout
        for argv in _SEEN
    }


def _spaces(prefix: str) -> set[str]:
    return {line.split()[0] for line in by_hand.run("ip", "netns", "list").splitlines() if line.startswith(prefix)}


def _processes(prefix: str) -> set[str]:
    found = {name: by_hand.run("ip", "netns", "pids", prefix + name) for name in (*by_hand.NODES, *by_hand.CONTAINERS)}
    return {f"{name}: {pid}" for name, pids in found.items() for pid in pids.split()}


def test_a_world_is_observed_and_left_as_it_was(file: Path, prefix: str, tmp_path: Path) -> None:
    names = [*(prefix + name for name in ("wire", *by_hand.NODES, *by_hand.CONTAINERS)), None]
    before = {name: _state(name) for name in names}
    done = bench("matrix", "--world", str(file), "-o", str(tmp_path / "m.json"), "--junit", str(tmp_path / "m.xml"))
    assert {name: _state(name) for name in names} == before
    assert _processes(prefix) == set()
    matrix = json.loads((tmp_path / "m.json").read_text("utf-8"))
    cells = {each["check"]: each for each in matrix["cells"]}
    odd = {name: each["detail"] for name, each in cells.items() if each["outcome"] != each["expected"]}
    # What it found: nft's dnat answers for an address only as long as the server answers from the port that was asked.
    assert odd == {"server.answers-from-another-port": odd.get("server.answers-from-another-port", "")}, odd
    assert done.returncode == 1, done.stderr
    observed = [each for each in cells.values() if each["outcome"] in ("pass", "fail")]
    assert len(observed) >= LEAST
    assert cells["balance.round-robin"]["detail"] == "connections: {'my-web.1': 20, 'my-web.2': 20, 'my-web.3': 20}"
    assert cells["identity.source-other-node"]["detail"] == "backend saw 10.9.0.2, the client's own"
    assert cells["visible.wire"]["detail"].startswith("none of ")
    assert "nothing is changed in a world of others" in cells["change.scale-up"]["reason"]
    assert not [each["reason"] for each in cells.values() if "this testbed has no" in each["reason"]]
    assert matrix["plan"]["dataplanes"][0]["played_by"]["lone.1"] == "api.a"
    report = bench("report", str(tmp_path / "m.json"), "-o", str(tmp_path / "m.html"))
    assert report.returncode == 0, report.stderr
    same = bench("compare", str(tmp_path / "m.json"), str(tmp_path / "m.json"))
    assert same.returncode == 0, same.stdout + same.stderr


def test_roles_that_nobody_plays_are_missed_by_no_check(file: Path, tmp_path: Path) -> None:
    text = file.read_text("utf-8").replace('stands_for = "my-web"', "").replace('stands_for = "visitor.1"', "")
    file.write_text(text)
    done = bench("matrix", "--world", str(file), "-o", str(tmp_path / "m.json"))
    assert done.returncode == 0, done.stdout
    reasons = {each["reason"] for each in json.loads((tmp_path / "m.json").read_text("utf-8"))["cells"]}
    assert "not applicable: nothing in this world stands for the service my-web" in reasons
    assert "not applicable: there is no container visitor.1" in reasons


def test_a_fault_of_the_world_is_found(file: Path, prefix: str) -> None:
    container = prefix + "shell"
    by_hand.run("ip", "netns", "exec", container, "nft", "flush", "ruleset")
    try:
        done = bench("matrix", "--world", str(file), "-k", "reach.other-node or reach.same-node")
    finally:
        by_hand.balance(container)
    assert done.returncode == 1
    assert "reach.other-node: fail (expected pass)" in done.stderr
    assert "reach.same-node: pass" in done.stderr  # it is another client's


def test_what_a_plane_does_not_have_is_expected_of_its_imitation(file: Path) -> None:
    file.write_text(file.read_text("utf-8").replace('name = "by-hand"', 'name = "by-hand"\nimitates = "nft-container"'))
    done = bench("matrix", "--world", str(file), "-k", "another-port or hairpin-lone")
    assert done.returncode == 0, done.stderr
    assert "server.answers-from-another-port: fail: " in done.stderr


def test_containers_by_the_number_of_a_process(file: Path, prefix: str) -> None:
    with subprocess.Popen(("ip", "netns", "exec", prefix + "shell", "sleep", "1000")) as process:
        try:
            text = file.read_text("utf-8").replace(f'netns = "{prefix}shell"', f"pid = {process.pid}")
            file.write_text(text)
            while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                pass  # `ip` has not entered it yet
            done = bench("matrix", "--world", str(file), "-k", "reach.other-node")
            assert process.poll() is None
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr


_ENGINE = """
import json, socketserver, subprocess, sys
from http.server import BaseHTTPRequestHandler

class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"State": {"Pid": container.pid}}).encode()
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + body)

    def log_message(self, *words):
        pass

    def address_string(self):
        return ""

container = subprocess.Popen(sys.argv[2:])
socketserver.UnixStreamServer(sys.argv[1], Answers).serve_forever()
"""


@pytest.mark.parametrize("own", ["", "unshare --pid --fork --kill-child"], ids=["--pid=host", "a container's own"])
def test_containers_of_an_engine_that_numbers_processes_in_its_own_way(
    file: Path, prefix: str, tmp_path: Path, own: str
) -> None:
    """Docker in Docker, and every other engine in a PID namespace."""
    socket = tmp_path / "engine.sock"
    sleep = ("ip", "netns", "exec", prefix + "shell", *own.split(), "sleep", "1000")
    engine = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", _ENGINE)
    text = file.read_text("utf-8").replace(f'netns = "{prefix}shell"', 'docker = "shell"')
    file.write_text(text.replace('name = "one"', f'name = "one"\nengine = "{socket}"'))
    with subprocess.Popen((*engine, str(socket), *sleep)) as process:
        try:
            assert awaited(socket.exists)
            done = bench("matrix", "--world", str(file), "-k", "reach.other-node")
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('netns = "{prefix}shell"', 'netns = "/proc/self/ns/net"', "in the namespace in which bench was started"),
        ('front = "10.9.0.7"', 'front = "10.9.0.8"', "visitor.1 does not have the address 10.9.0.8: it has 10.9.0.7"),
        ('name = "by-hand"', 'name = "by-hand"\nport = 80\nspeed = 1', "unknown field `speed`"),
    ],
)
def test_a_bad_world_is_refused(file: Path, prefix: str, old: str, new: str, says: str) -> None:
    file.write_text(file.read_text("utf-8").replace(old.format(prefix=prefix), new))
    done = bench("matrix", "--world", str(file))
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert f"{file}:" in done.stderr
    assert _processes(prefix) == set()


def test_a_port_that_is_taken_is_told(file: Path, prefix: str) -> None:
    argv = ("ip", "netns", "exec", prefix + "api.a", "python3", "-uc")
    program = "import socket; s = socket.create_server(('', 27080)); print('up'); s.accept()"
    with subprocess.Popen((*argv, program), stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            done = bench("matrix", "--world", str(file), "-k", "reach.other-node")
        finally:
            process.kill()
    assert (done.returncode, "something has port 27080 there" in done.stderr) == (2, True), done.stderr


def test_a_command_sees_the_processes_of_the_machine(file: Path, tmp_path: Path) -> None:
    """Its owner enters containers by the numbers of processes, as with `nsenter --target`."""
    file.write_text(file.read_text("utf-8").replace('name = "by-hand"', 'name = "by-hand"\ncommands.remove = "true"'))
    script = f"cmp /proc/{os.getpid()}/cmdline {tmp_path}/own >&2 && echo it is seen >&2; exit 4"
    (tmp_path / "own").write_bytes(Path("/proc/self/cmdline").read_bytes())
    words = json.dumps(["sh", "-c", script])
    file.write_text(file.read_text("utf-8").replace("commands.remove", f"commands.create = {words}\ncommands.remove"))
    done = bench("matrix", "--world", str(file), "-k", "change.scale-up", "-o", str(tmp_path / "m.json"))
    (cell,) = json.loads((tmp_path / "m.json").read_text("utf-8"))["cells"]
    assert (cell["outcome"], "it is seen" in cell["detail"]) == ("skip", True), done.stderr


def test_commands_make_services_for_the_checks(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "world.toml"
    file.write_text(by_hand.described(prefix, operated=str(tmp_path / "made.json")))
    spaces = _spaces(prefix)
    before = {name: _state(prefix + name) for name in (*by_hand.NODES, *by_hand.CONTAINERS)}
    holds = (
        "scale-up",
        "drain",
        "not-rebalanced",
        "no-backend",
        "removed-service",
        "new-container",
        "change.crash",
        "notrack",
    )
    done = bench("matrix", "--world", str(file), "-k", " or ".join(holds), "-o", str(tmp_path / "m.json"))
    cells = {each["check"]: each for each in json.loads((tmp_path / "m.json").read_text("utf-8"))["cells"]}
    failed = {name for name, each in cells.items() if each["outcome"] not in ("pass", "skip")}
    # The world by hand does not forget the UDP flows of a backend that is drained, and nat needs connection tracking.
    assert failed == {"change.drain-udp", "client.own-notrack"}, done.stderr
    assert cells["change.drain"]["detail"].endswith("new ones only to probe3.2"), cells["change.drain"]
    assert "no command to crash" in cells["change.crash-container"]["detail"]
    assert _spaces(prefix) == spaces
    assert {name: _state(prefix + name) for name in (*by_hand.NODES, *by_hand.CONTAINERS)} == before
    assert json.loads((tmp_path / "made.json").read_text())["services"] == {}
