"""The commands with a plane file: it is listed, checked, recorded and expected like a row of the catalog."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest

from bench import api
from bench.cli.new_plane import LANGUAGES
from bench.documents import schema
from bench.documents.parts import Named
from bench.kernels import Kernel, not_shared
from bench.outside import provenance
from bench.prepare import preflight
from bench.report import model
from dataplanes import catalog
from dataplanes.errors import Usage
from dataplanes.model import Backend, Port
from dataplanes.program import Call, CallAnswer, CalledService, CalledSite
from dataplanes.requirements import Executable
from dataplanes.selection import Selection
from scenarios import expectations
from tests.unit.conftest import Bench

Started = Callable[..., Selection]


@pytest.fixture
def started(bench: Bench, tmp_path: Path) -> Started:
    """Make a plane as `bench plane new` does, and return it selected."""

    def start(name: str = "mine", language: str = "shell") -> Selection:
        assert bench("plane", "new", name, "--language", language).exit_code == 0
        return catalog.select(f"./{name}/{name}.toml")[0]

    return start


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_plane_has_the_name_that_was_asked_for_everywhere(
    started: Started, language: str, tmp_path: Path
) -> None:
    made = started("your-own.1", language)
    assert made.name == "your-own.1"
    assert made.program
    assert made.program.argv == (f"{tmp_path}/your-own.1/your-own.1",)
    assert sorted(path.name for path in (tmp_path / "your-own.1").iterdir()) == [
        "expected.toml",
        "your-own.1",
        "your-own.1.toml",
    ]
    assert not [path for path in (tmp_path / "your-own.1").iterdir() if "my-plane" in path.read_text()]
    expectations.demand_known([made])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Mine", "is no name of a data plane"),
        ("../mine", "is no name of a data plane"),
        ("nft-lb", "there is a data plane nft-lb already"),
        ("all", "there is a data plane all already"),
        ("there", "there is something of this name already"),
    ],
)
def test_a_new_plane_that_cannot_be_is_refused(bench: Bench, name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = bench("plane", "new", name)
    assert (done.exit_code, says in done.output) == (2, True), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_it_is_listed_by_its_file(bench: Bench, started: Started) -> None:
    started()
    (row,) = json.loads(bench("list", "dataplanes", "./mine/mine.toml", "--json").stdout)
    assert (row["name"], row["package"], row["variants"], row["knobs"]) == ("mine", "", {}, [])
    assert "shell script" in row["summary"]
    lines = bench("list", "dataplanes", "nft-lb", "overlay:./mine/mine.toml").stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["nft-lb", "mine-overlay"]


def test_a_list_of_names_is_of_these(bench: Bench) -> None:
    (row,) = json.loads(bench("list", "checks", "reach.payload", "--json").stdout)
    assert row["name"] == "reach.payload"
    done = bench("list", "checks", "reach.paylod")
    assert (done.exit_code, "did you mean reach.payload?" in done.output) == (2, True)


def test_doctor_tells_what_it_lacks(bench: Bench, started: Started, tmp_path: Path) -> None:
    started()
    path = tmp_path / "mine" / "mine.toml"
    path.write_text(path.read_text("utf-8").replace('jq = "jq"', 'no-such-jq = "jq-of-mine"'), "utf-8")
    done = bench("doctor", "./mine/mine.toml", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["dataplanes"] == {
        "mine": {"debian-6.12": ["no-such-jq: not installed (apt-get install jq-of-mine)"]}
    }
    refused = bench("matrix", "-d", "./mine/mine.toml", "--kernel", "debian-6.12", "-k", "reach.payload")
    assert (refused.exit_code, "no-such-jq: not installed" in refused.output) == (3, True)


@pytest.mark.parametrize(
    ("path", "hidden"),
    [("/run/x/mine", "/run"), ("/dev/shm/mine", "/dev"), ("/etc/netns/a", "/etc/netns"), ("/runner/mine", "")],
)
def test_a_program_in_a_directory_that_a_guest_has_itself_is_refused_there(
    path: str, hidden: str, machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not_shared(path) == hidden
    monkeypatch.setattr("os.access", lambda *_: True)
    found = preflight.availability(Executable(path, "a program"), machine["debian-6.12"])
    assert (found.ok, hidden in found.why) == (not hidden, True)


def test_a_document_tells_what_the_program_was_and_not_where(started: Started, tmp_path: Path) -> None:
    (told,) = provenance.planes([started()])
    assert told["mechanism"] == "mine"
    known = {"digest", "summary", "ports", "protocols", "scheduler", "serve", "imitates", "packages"}
    assert set(told["program"]) == known
    assert str(tmp_path) not in json.dumps(told["program"])
    named = msgspec.convert(told, Named)
    assert named.program
    assert "shell script" in model._summary("mine", named), "the report tells what it is"
    assert len(named.program.digest) == 12
    assert provenance.planes(catalog.select("nft-lb"))[0]["program"] is None


def test_another_program_is_another_run(started: Started, machine: dict[str, Kernel], tmp_path: Path) -> None:
    made = started()
    before = provenance.identity(machine["debian-6.12"], [made])
    (tmp_path / "mine" / "mine").write_text("#!/bin/sh\n", "utf-8")
    after = provenance.identity(machine["debian-6.12"], [made])
    assert {name for name in before if before[name] != after[name]} == {"mine"}


def test_its_differences_are_expected_of_it_alone(started: Started) -> None:
    made = started()
    found = expectations.expected(made, "identity.ttl", "6.12.1")
    assert (found.expected, found.reason) == ("fail", "the balancer's namespace is a router on the way")
    assert expectations.expected(made, "reach.payload", "6.12.1").expected == "pass"
    assert expectations.expected(catalog.select("nft-container")[0], "identity.ttl", "6.12.1").expected == "pass"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[difference]]\nchecks = ['reach.paylod']\nreason = 'x'\n", ":2: difference[0].checks: there is no check"),
        ("[[difference]]\nchecks = []\nreason = ' '\n", ":3: difference[0].reason: a difference needs a reason"),
        ("[[difference]]\nchecks = []\n", ":1: difference[0]: Object missing required field `reason`"),
        ("[[difference]]\nchecks = []\nreason = 'x'\nplanes = ['nft-lb']\n", "unknown field `planes`"),
        ("[[difference]]\nchecks = []\nreason = 'x'\nexpected = 'maybe'\n", ":4: difference[0].expected"),
        ("[difference\n", ":1: not TOML"),
    ],
)
@pytest.mark.parametrize("command", [api.plan, api.observe])
def test_differences_that_cannot_be_are_refused_before_anything_is_created(
    started: Started, tmp_path: Path, text: str, says: str, command: Callable[..., object]
) -> None:
    expectations._read.cache_clear()
    started()
    (tmp_path / "mine" / "expected.toml").write_text(text, "utf-8")
    with pytest.raises(Usage) as caught:
        command("./mine/mine.toml")
    assert says in str(caught.value)
    expectations._read.cache_clear()


def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema.path(kind, 1).read_text("utf-8")))


def test_a_call_and_a_plane_file_are_what_their_schemas_say(started: Started, tmp_path: Path) -> None:
    site = CalledSite("run-lb", "net", "n1", "10.0.0.0/24", "input", "snat", "eth0", "10.0.0.9")
    services = (CalledService("web", "10.0.0.2", (Port("tcp", 80),), (Backend("10.0.0.3", 0),)),)
    document = json.loads(msgspec.json.encode(Call(1, "apply", site, services, ("web",))))
    assert document == {
        "protocol": 1,
        "verb": "apply",
        "site": {
            "netns": "run-lb",
            "network": "net",
            "node": "n1",
            "subnet": "10.0.0.0/24",
            "hook": "input",
            "reply": "snat",
            "interface": "eth0",
            "address": "10.0.0.9",
        },
        "services": [
            {
                "name": "web",
                "vip": "10.0.0.2",
                "ports": [{"protocol": "tcp", "number": 80}],
                "backends": [{"address": "10.0.0.3", "weight": 0}],
            }
        ],
        "changed": ["web"],
    }
    validator("plane-call").validate(document)
    started()
    validator("plane-file").validate(msgspec.toml.decode((tmp_path / "mine" / "mine.toml").read_bytes()))
    validator("plane-expected").validate(msgspec.toml.decode((tmp_path / "mine" / "expected.toml").read_bytes()))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ({}, True),
        ({"footprint": [{"kind": "services", "objects": 3}]}, True),
        ({"counters": [{"service": "web", "backend": "10.0.0.3", "connections": 7}]}, True),
        ({"error": "no room", "code": 4}, True),
        ({"footprints": []}, False),
        ({"footprint": [{"kind": "services", "objects": -1}]}, False),
        ({"footprint": [{"kind": "a\nb", "objects": 1}]}, False),
        ({"counters": [{"service": "web"}]}, False),
        ([], False),
    ],
)
def test_the_schema_of_answers_and_the_program_agree(answer: object, right: bool) -> None:
    assert validator("plane-answer").is_valid(answer) == right
    try:
        msgspec.convert(answer, CallAnswer)
    except msgspec.ValidationError:
        assert not right
    else:
        assert right
