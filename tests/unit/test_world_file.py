"""A world file is refused with line and field before anything is done, and everybody in it has the right role."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NoReturn

import jsonschema
import msgspec
import pytest

from bench.documents.schema import render
from bench.outside import adopt
from dataplanes.errors import BenchError, NotApplicable, Prerequisite, TimedOut, Usage
from scenarios import homes, operated, roles, world_file
from scenarios.adopted import Adopted, Adoption
from scenarios.homes import EnginePlace
from scenarios.operated import CommandRequest
from scenarios.topology import ServiceSpec, Task
from tests.conftest import ROOT
from tests.program.by_hand import described
from tests.unit.conftest import Bench

GOOD = described("x-")


def read(tmp_path: Path, text: str) -> roles.Roles:
    path = tmp_path / "w.toml"
    path.write_text(text)
    return roles.give_roles(*world_file.load(str(path)))


def test_roles_are_played(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert found.played_by["my-web.1"] == "shop.b"  # on the client's node
    assert found.played_by["my-web.3"] == "shop.a"  # beside lone
    assert {found.played_by[name] for name in ("my-web.1", "my-web.2", "my-web.3")} == {"shop.a", "shop.b", "shop.c"}
    assert (found.played_by["worker2"], found.played_by["worker1"], found.played_by["manager1"]) == (
        *("one", "two", "three"),
    )
    assert found.scenario.network("my-network").subnet == "10.9.0.0/24"
    web = found.scenario.service("my-web")
    assert [(each.name, each.number) for each in web.tasks] == [("my-web.1", 1), ("my-web.2", 2), ("my-web.3", 3)]
    assert [each.name for each in found.scenario.idlers] == ["my-busybox.1", "visitor.1"]


@pytest.mark.parametrize(("name", "field"), [("api", "services[1].name"), ("api.a", "containers[4].name")])
def test_nobody_has_the_name_of_a_service_that_checks_create_and_remove(tmp_path: Path, name: str, field: str) -> None:
    with pytest.raises(Usage, match=r"services that checks create are called probe1(\.1)?, too") as refused:
        read(tmp_path, GOOD.replace(f'"{name}"', '"probe1.1"' if "." in name else '"probe1"'))
    assert f": {field}" in str(refused.value)


def test_the_page_s_file_is_the_one_that_is_tried(tmp_path: Path) -> None:
    page = (ROOT / "docs/adopt.md").read_text("utf-8")
    (text,) = [part.partition("```")[0] for part in page.split("```toml file=shop.toml\n")[1:]]
    shown, tried = (msgspec.toml.decode(each) for each in (text, described("hand-")))
    assert shown | {"name": ""} == tried | {"name": ""}
    assert read(tmp_path, text).scenario.name == "shop"


@pytest.mark.parametrize(
    ("old", "new", "field", "says"),
    [
        ('name = "by-hand"', 'name = "By Hand"', "name", "no name of a data plane"),
        ('name = "by-hand"', 'name = "by-hand"\nspeed = 3', "top level", "unknown field"),
        ('name = "by-hand"', 'name = "by-hand"\nport = 27200', "port", "the checks' own servers"),
        ('name = "by-hand"', 'name = "by-hand"\nprotocols = ["tcp", "tcp"]', "protocols", "named twice"),
        ('name = "two"', 'name = "one"', "nodes[1].name", "there are two 'one'"),
        ('subnet = "10.9.0.0/24"', 'subnet = "10.9.0.1/24"', "networks[0].subnet", "host bits set"),
        (
            'network = "front"\nvip = "10.9.0.101"',
            'network = "fron"\nvip = "1.2.3.4"',
            "services[1].network",
            "but front",
        ),
        ('vip = "10.9.0.101"', 'vip = "10.9.0.100"', "services[1].vip", "10.9.0.100 is services[0].vip already"),
        ('vip = "10.9.0.101"', 'vip = "here"', "services[1].vip", "not an IPv4 address"),
        ('vip = "10.9.0.101"', 'vip = "10.9.0.101"\nports = ["80"]', "services[1].ports", "27080, where the servers"),
        ('vip = "10.9.0.101"', 'vip = "10.9.0.101"\nports = ["x"]', "services[1].ports", "is not a port"),
        ('stands_for = "lone"', 'stands_for = "my-web"', "services[1].stands_for", "there are two 'my-web'"),
        ('stands_for = "lone"', 'stands_for = "both"', "services[1].stands_for", "Invalid enum value"),
        ('front = "10.9.0.7"', 'front = "10.8.0.7"', "containers[5].addresses", "outside 10.9.0.0/24"),
        ('front = "10.9.0.7"', 'back = "10.9.0.7"', "containers[5].addresses", "no network 'back'"),
        ('front = "10.9.0.7"', 'front = "10.9.0.2"', "containers[5].addresses", "is containers[0].addresses already"),
        ('service = "api"', 'service = "app"', "containers[4].service", "no service 'app', but api"),
        ('netns = "x-guest"', 'netns = "x-guest"\npid = 1', "containers[5].pid", "not netns and pid"),
        ('netns = "x-guest"\n', "", "containers[5].name", "not none of them"),
        ('netns = "x-guest"', 'netns = "../x"', "containers[5].netns", "no path"),
        ('netns = "x-guest"', "pid = -1", "containers[5].pid", "Expected `int` >= 0"),
        ('service = "api"\n', "", "services[1].stands_for", "lone has one container, and api has 0"),
        (
            'service = "api"',
            'service = "shop"',
            "services[0].stands_for",
            "my-web has three containers, and shop has 4",
        ),
        ('stands_for = "my-busybox.1"', "", "services[0]", "nothing stands for my-busybox.1"),
        ('stands_for = "my-busybox.1"', 'stands_for = "visitor.1"', "containers[5].stands_for", "two 'visitor.1'"),
        ('node = "three"', 'node = "two"', "containers[5].stands_for", "visitor.1 is on a node without"),
        ('name = "shell"\nnode = "one"', 'name = "shell"\nnode = "two"', "services[0].stands_for", "node of lone, two"),
        (
            'name = "shell"\nnode = "one"',
            'name = "shell"\nnode = "three"',
            "services[0].stands_for",
            "my-busybox.1, three",
        ),
        ('service = "api"', 'service = "api"\nstands_for = "both.1"', "containers[4].stands_for", "stands for lone.1"),
        ('name = "guest"', 'name = "lone.1"', "containers[5].name", "the checks' name of another one"),
        ('stands_for = "visitor.1"', 'stands_for = "both.1"', "containers[5].stands_for", "on the network of side-web"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_field(tmp_path: Path, old: str, new: str, field: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(Usage) as refused:
        read(tmp_path, GOOD.replace(old, new, 1))
    told = str(refused.value)
    assert f": {field}: " in told
    assert says in told
    assert int(told.split("w.toml:")[1].split(":")[0]) > 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("pid = {pid}", "is in the namespace in which bench was started"),
        ('netns = "/proc/self/ns/mnt"', "/proc/self/ns/mnt is no network namespace"),
        ('netns = "/etc/passwd"', "/etc/passwd is no network namespace"),
        ('netns = "no-such-name"', "there is no namespace at /run/netns/no-such-name: No such file"),
        ("pid = 4194304", "there is no namespace at /proc/4194304/ns/net"),
        ('docker = "shell"', "is in the namespace in which bench was started"),
        ('docker = "a/b"', "does not tell of 'a/b': status 404"),
        ('docker = "stopped"', "'stopped' does not run"),
        ('docker = "strange"', "does not tell of 'strange'"),
    ],
)
def test_a_namespace_that_cannot_be_used_is_refused(tmp_path: Path, engine: str, given: str, says: str) -> None:
    text = GOOD.replace('netns = "x-shell"', given.format(pid=os.getpid()))
    path = tmp_path / "w.toml"
    path.write_text(text.replace('netns = "x-one"', f'netns = "x-one"\nengine = "{engine}"'))
    found, fault = world_file.load(str(path))
    with pytest.raises(Usage) as refused:
        _homes(found, fault)
    assert says in str(refused.value)
    assert f"containers[0].{given.partition(' ')[0]}: " in str(refused.value)


def test_two_containers_in_one_namespace_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "own_inode", lambda: (os.stat("/proc/self/ns/net").st_dev, 0))
    text = GOOD.replace('netns = "x-shell"', f"pid = {os.getpid()}").replace(
        'netns = "x-shop.a"', f"pid = {os.getpid()}"
    )
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(Usage, match=r"containers\[1\].pid: shop.a is in the same namespace as shell"):
        _homes(*world_file.load(str(tmp_path / "w.toml")))


def test_an_engine_that_does_not_answer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        GOOD.replace('netns = "x-shell"', 'docker = "shell"').replace('"x-one"', '"x-one"\nengine = "/no/e"')
    )
    with pytest.raises(
        Usage, match=r"containers\[0\].docker: the engine at /no/e does not tell of 'shell': .*No such file"
    ):
        _homes(*world_file.load(str(path)))


def _homes(found: world_file.WorldFile, fault: adopt.Fault) -> object:
    return adopt._homes(found, {each.name: homes.place(each.engine) for each in found.nodes}, fault)


class _Answers(BaseHTTPRequestHandler):
    """The part of an engine's API that tells of a container."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/containers/").removesuffix("/json")
        states = {"shell": os.getpid(), "stopped": 0}
        body = {"State": {"Pid": states[name]}} if name in states else []
        self.send_response(404 if "%2F" in name else 200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def address_string(self) -> str:
        return "a client"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
        """Say nothing."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[str]:
    """Yield the socket of something that answers as an engine does."""
    path = str(tmp_path / "engine.sock")
    with socketserver.UnixStreamServer(path, _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def test_only_root_can_enter_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.toml").write_text(GOOD)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Prerequisite, match="run as root"):
        adopt.find_world(str(tmp_path / "w.toml"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('name = "ipvs-lb"', "is the name of a data plane"),
        ('name = "a"\nimitates = "ipvs"', "imitates: unknown data plane"),
        ('name = "a"\nimitates = "swarm@1.12"', "imitates: swarm@1.12: swarm has no version"),
        ('name = "a"\nimitates = "ipvs-lb,nft-lb"', "imitates: 'ipvs-lb,nft-lb' is more than one data plane"),
    ],
)
def test_names_of_the_catalog_are_minded(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "w.toml").write_text(GOOD.replace('name = "by-hand"', line))
    with pytest.raises(Usage, match=says):
        adopt.find_world(str(tmp_path / "w.toml"))


def test_nothing_of_an_adopted_world_can_be_changed(tmp_path: Path) -> None:
    played = read(tmp_path, GOOD)
    testbed = Adopted(Adoption(played, {}, {}, {"worker1": "eth7"}, {}, 27100), lambda task: [])
    assert testbed.service("my-web").vip == "10.9.0.100"
    assert [each.name for each in testbed.services()] == ["my-web", "lone"]
    assert testbed.uplink("worker1") == "eth7"
    spec = played.scenario.service("lone")
    changes: list[Callable[[], object]] = [
        lambda: testbed.create_service(spec),
        lambda: testbed.remove_service("lone"),
        lambda: testbed.scale("lone", 2),
        lambda: testbed.drain("lone.1"),
        lambda: testbed.remove_task("lone.1"),
        lambda: testbed.crash("lone.1"),
        lambda: testbed.stop_server("lone.1"),
        lambda: testbed.alias("lone.1", 1),
        lambda: testbed.behind("lone.1"),
        lambda: testbed.demand_alterable([]),
        lambda: testbed.apply([]),
        lambda: testbed.withdraw([]),
        lambda: testbed.resync(),
        lambda: testbed.reinstall(),
        lambda: testbed.service("side-web"),
    ]
    for change in changes:
        with pytest.raises(NotApplicable):
            change()


_OWN = """echo '{"containers": [{"name": "probe1.1", "address": "10.9.0.9", "netns": "NETNS"}]}'"""


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        ("echo no room >&2; exit 3", BenchError, "sh: create probe1: the command refuses: no room"),
        ("exit 3", BenchError, "the command refuses: exit code 3"),
        ("echo by nature >&2; exit 4", NotApplicable, "by nature"),
        ("echo '{'", BenchError, "the command's answer cannot be read"),
        ("printf '\\377'", BenchError, "the command's answer cannot be read"),
        ("echo '{\"vips\": 1}'", BenchError, "unknown field `vips`"),
        ("true", BenchError, "probe1: probe1.1: the command does not tell of a container"),
        ("{made}", BenchError, "the command tells of no container: the engine at /no/engine does not tell of ''"),
        (_OWN.replace("NETNS", "/proc/self/ns/net"), BenchError, "/proc/self/ns/net was there before"),
        ("sleep 100", TimedOut, "sh: create probe1: the command is not done: 0.2 s"),
    ],
)
def test_a_command_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: type[BenchError], says: str
) -> None:
    made = """echo '{"containers": [{"name": "probe1.1", "address": "10.9.0.9"}]}'"""
    monkeypatch.setattr(operated, "_PATIENCE", 0.2 if "sleep" in command else 120.0)
    testbed, log = _operated(tmp_path, command.replace("{made}", made))
    with pytest.raises(kind) as told:
        testbed.create_service(ServiceSpec("probe1", "my-network", tasks=[Task("probe1.1", "worker1")]))
    assert type(told.value) is kind
    assert says in str(told.value)
    removed = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert removed == ([] if kind is NotApplicable else [{"verb": "remove", "service": "probe1"}])
    assert testbed.services() == super(operated.Operated, testbed).services()


def _operated(tmp_path: Path, create: str) -> tuple[operated.Operated, Path]:
    """Return a world in which a shell command makes services, and the file in which removals are written down."""
    played, log = read(tmp_path, GOOD), tmp_path / "removed"
    commands: dict[world_file.CommandVerb, tuple[str, ...]] = {
        "create": ("sh", "-c", create),
        "remove": ("sh", "-c", f"cat >> {log}"),
    }
    engines = dict.fromkeys(played.scenario.nodes, EnginePlace("/no/engine"))
    adoption = Adoption(played, {}, {}, {}, engines, 27100, commands=commands, directory=str(tmp_path))
    return operated.Operated(adoption, lambda task: []), log


def test_a_new_container_does_not_get_the_name_of_one_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testbed, _ = _operated(tmp_path, "true")
    tasks = [Task("probe1.1", "worker1"), Task("probe1.3", "worker2")]
    testbed._specs["probe1"] = ServiceSpec("probe1", "my-network", tasks=tasks)
    asked: list[CommandRequest] = []

    def do(request: CommandRequest) -> NoReturn:
        asked.append(request)
        raise NotApplicable("by nature")

    monkeypatch.setattr(testbed, "_do", do)
    with pytest.raises(NotApplicable):
        testbed.scale("probe1", 4)
    assert [each.name for each in asked[0].containers] == ["probe1.1", "probe1.3", "probe1.4", "probe1.5"]


def test_a_command_is_told_the_names_of_the_file(tmp_path: Path) -> None:
    testbed, _ = _operated(tmp_path, f"cat > {tmp_path}/asked; exit 4")
    spec = ServiceSpec("probe1", "my-network", "10.9.0.99", tasks=[Task("probe1.1", "worker1", "10.9.0.9")])
    with pytest.raises(NotApplicable):
        testbed.create_service(spec)
    assert json.loads((tmp_path / "asked").read_text()) == {
        "verb": "create",
        "service": "probe1",
        "network": "front",
        "vip": "10.9.0.99",
        "containers": [{"name": "probe1.1", "node": "two", "address": "10.9.0.9"}],
    }
    with pytest.raises(NotApplicable, match="nothing in this world stands for worker9"):
        testbed.create_service(ServiceSpec("probe2", "my-network", tasks=[Task("probe2.1", "worker9")]))
    changes: list[Callable[[], None]] = [
        lambda: testbed.scale("my-web", 4),
        lambda: testbed.remove_service("lone"),
    ]
    for change in changes:
        with pytest.raises(NotApplicable, match="only services of the checks are changed"):
            change()


@pytest.mark.parametrize(
    ("line", "field", "says"),
    [
        ('commands.create = "x"', "commands", "create and remove are needed"),
        ('commands.crash = "x"', "commands", "Invalid enum value 'crash'"),
        ('commands.create = "x"\ncommands.remove = []', "commands.remove", "it names no program"),
        ('commands.create = "x \'y"\ncommands.remove = "x"', "commands.create", "No closing quotation"),
        ('resolver = "dns"', "resolver", "'dns' is not an IPv4 address"),
    ],
)
def test_wrong_commands_are_refused(tmp_path: Path, line: str, field: str, says: str) -> None:
    with pytest.raises(Usage) as refused:
        read(tmp_path, f"{line}\n{GOOD}")
    assert f": {field}" in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [
        ("--dataplane", "nft-lb"),
        ("--scenario", "seed"),
        ("--kernel", "guest"),
        ("--clock", "instructions"),
        ("--jobs", "2"),
        ("--cluster", "local"),
        ("--pause-on-fail",),
    ],
)
def test_what_a_world_cannot_have_is_refused(bench: Bench, tmp_path: Path, option: tuple[str, ...]) -> None:
    (tmp_path / "w.toml").write_text(GOOD)
    done = bench("matrix", "--world", str(tmp_path / "w.toml"), *option)
    assert done.exit_code == 2
    assert f"{option[0]} and --world exclude each other" in done.output


def test_one_of_world_and_dataplane_is_needed(bench: Bench) -> None:
    done = bench("matrix")
    assert (done.exit_code, "--dataplane, or a file with --world" in done.output) == (2, True)


def test_the_schema_takes_the_file() -> None:
    schema = msgspec.json.decode(render("world-file", 1))
    jsonschema.validate(msgspec.toml.decode(GOOD), schema)
