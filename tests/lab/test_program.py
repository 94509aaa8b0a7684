"""Somebody else's program at a site: what it is told, what becomes of its faults, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dataplanes.base import Director, Site
from dataplanes.errors import BenchError, Prerequisite, TimedOut, Unsupported
from dataplanes.kernel import netns
from dataplanes.model import Backend, Endpoint, Port, Service
from dataplanes.plane_file import PlaneProgram
from dataplanes.program import ProgramMechanism
from scenarios import journal
from scenarios.journal import Journal
from tests.lab.conftest import awaited

pytestmark = pytest.mark.planes("direct")

SLEEP = f"sleep {4_000_000 + os.getpid()}"
"""What a program of these tests does for ever. Another worker's sleeps for another time."""
WEB = Service("web", "net", "10.0.0.2", (Backend("10.0.0.3"), Backend("10.0.0.4", 0)), (Port("tcp", 80),))
OTHER = Service("other", "net", "10.0.0.6", (Backend("10.0.0.7"),))

TELLS = """#!/bin/sh
cat >>"$PLANE_STATE/../told"
[ "$1" != footprint ] || echo '{"footprint": [{"kind": "things", "objects": 7}]}'
[ "$1" != counters ] || echo '{"counters": [{"service": "web", "backend": "10.0.0.3", "connections": 9}]}'
"""
SERVES = """#!/usr/bin/env python3
import json, os, sys
assert sys.argv[1:] == ["serve"]
for line in sys.stdin:
    call = json.loads(line)
    with open(os.environ["PLANE_STATE"] + "/../told", "a") as file:
        file.write(line)
    FAULT
    print({"footprint": '{"footprint": [{"kind": "things", "objects": 7}]}',
           "counters": '{"counters": [{"service": "web", "backend": "10.0.0.3", "connections": 9}]}',
          }.get(call["verb"], "{}"), flush=True)
"""


class Place:
    """A namespace, in which programs are opened as a lab does it."""

    def __init__(self, directory: Path, run: Journal) -> None:
        self.directory, self.journal = directory, run
        self.netns = f"{run.run}-lb"
        self.directors: list[Director] = []

    def open(self, script: str, *, serve: bool = False, timeout: float = 20, hook: str = "input") -> Director:
        path = self.directory / "program"
        path.write_text(script, "utf-8")
        path.chmod(0o755)
        program = PlaneProgram(
            "mine", "mine", "a program", "lb", (str(path),), str(self.directory), serve=serve, timeout=timeout
        )
        return self.begin(program)

    def begin(self, program: PlaneProgram) -> Director:
        mechanism = ProgramMechanism(program)
        mechanism.settle_in(self.journal)
        site = Site(self.netns, "net", "n1", "10.0.0.0/24", "input", "snat", "eth0", "10.0.0.9")
        self.directors.append(mechanism.open(site))
        return self.directors[-1]

    def told(self) -> list[dict[str, object]]:
        lines = (Path(self.journal.scratch("told")).read_text("utf-8")).splitlines()
        return [json.loads(line) for line in lines]

    def verbs(self) -> list[object]:
        return [call["verb"] for call in self.told()]

    def left(self) -> list[str]:
        """Return what is left of a program outside the namespace: its processes, and files of the run."""
        processes = [each for each in running() if str(self.directory) in each or SLEEP in each]
        return processes + [each for each in os.listdir(self.journal.scratch("")) if each not in ("told", "refused")]


def running() -> Iterator[str]:
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield each.read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Journal() as run:
        made = Place(tmp_path, run)
        run.record("netns", made.netns)
        netns.create(made.netns)
        try:
            yield made
        finally:  # a test that fails has closed nothing, and the tests after it would hear of its processes
            for each in made.directors:
                with suppress(BenchError):
                    each.release()


@pytest.mark.parametrize("serve", [False, True], ids=["called", "serving"])
def test_it_is_told_all_that_is_wanted_and_what_changes(place: Place, serve: bool) -> None:
    director = place.open(SERVES.replace("FAULT", "") if serve else TELLS, serve=serve)
    director.apply([WEB])
    director.apply([OTHER])
    director.remove([WEB])
    director.resync()
    assert [(each.kind, each.objects) for each in director.footprint()] == [("things", 7)]
    assert [(each.service, each.backend, each.connections) for each in director.counters()] == [("web", "10.0.0.3", 9)]
    director.close()
    director.close()
    told = place.told()
    assert [(call["verb"], [each["name"] for each in call["services"]], call["changed"]) for call in told] == [  # type: ignore[attr-defined]
        ("open", [], []),
        ("apply", ["web"], ["web"]),
        ("apply", ["web", "other"], ["other"]),
        ("apply", ["other"], ["web"]),
        ("resync", ["other"], []),
        ("footprint", ["other"], []),
        ("counters", ["other"], []),
        ("close", ["other"], []),
    ]
    assert told[1]["services"] == [
        {
            "name": "web",
            "vip": "10.0.0.2",
            "ports": [{"protocol": "tcp", "number": 80}],
            "backends": [{"address": "10.0.0.3", "weight": 1}, {"address": "10.0.0.4", "weight": 0}],
        }
    ]
    assert {json.dumps(call["site"]) for call in told} == {json.dumps(told[0]["site"])}
    assert place.left() == []


def test_it_is_root_in_the_namespace_of_the_site_beside_its_plane_file(place: Place) -> None:
    director = place.open(
        "#!/bin/sh\n[ $1 = open ] || exit 0\n"
        "[ $(id -u) = 0 ] && ip link add mark type bridge && test -x ./program || exit 1\n"
        '[ -d "$PLANE_STATE" ] && [ -z "$(ls "$PLANE_STATE")" ] && [ "$PLANE_PROTOCOL" = 1 ]\n'
        "[ $(cat /proc/$$/comm) = program ]"
    )
    with netns.inside(place.netns):
        assert "mark" in os.listdir("/proc/self/net/dev_snmp6") or "mark" in Path("/proc/self/net/dev").read_text()
    director.release()


def test_at_tc_it_is_where_the_hook_is(place: Place) -> None:
    (place.directory / "program").write_text(TELLS, "utf-8")
    (place.directory / "program").chmod(0o755)
    mechanism = ProgramMechanism(
        PlaneProgram("mine", "mine", "a program", "tc", (f"{place.directory}/program",), str(place.directory))
    )
    mechanism.settle_in(place.journal)
    endpoint = Endpoint("c1", "net", "n1", "no-such", "eth0", "10.0.0.7", "", place.netns, "veth7")
    site = Site("no-such", "net", "n1", "10.0.0.0/24", "tc", "own-source", "eth0", "10.0.0.7", endpoint)
    mechanism.open(site).close()
    found = place.told()[0]["site"]
    assert isinstance(found, dict)
    assert (found["netns"], found["interface"], found["address"]) == (place.netns, "veth7", "10.0.0.7")


# -- faults: each is told with its verb and reason, and undone -------------------------------------------------------

REFUSES = """#!/bin/sh
cat >>"$PLANE_STATE/../told"
if [ "$1" = "$REFUSED" ] && [ ! -e "$PLANE_STATE/../refused" ]; then : >"$PLANE_STATE/../refused"; FAULT; fi
"""
FAULTS: dict[str, tuple[str, type[BenchError], str]] = {
    "an exit code": ("echo first >&2; echo no room >&2; exit 1", BenchError, "mine refuses to VERB: no room"),
    "an exit code alone": ("exit 9", BenchError, "mine refuses to VERB: exit code 9"),
    "by its nature": ("echo no drain >&2; exit 4", Unsupported, "mine refuses to VERB: no drain"),
    "a signal": ("echo about to >&2; kill -SEGV $$", BenchError, "mine was killed by SIGSEGV during VERB: about to"),
    "garbage": ("echo ok", BenchError, "mine gives no answer to VERB that can be read"),
    "half an object": ("echo '{'; exit 0", BenchError, "mine gives no answer to VERB that can be read"),
    "an unknown field": ("echo '{\"counter\": []}'", BenchError, "unknown field `counter`"),
    "no text": ("printf '\\377\\n'", BenchError, "mine gives no answer to VERB that can be read"),
    "at length": ("head -c 17000000 /dev/zero", BenchError, "mine answers VERB at length: more than 16 MiB on stdout"),
    "without end": ("exec cat /dev/zero", BenchError, "mine was killed by SIGXFSZ during VERB"),
    "never": (f"echo thinking >&2; exec {SLEEP}", TimedOut, "mine does not end its VERB: it takes longer than 5 s"),
    "never, with a child": (f"{SLEEP} & wait", TimedOut, "does not end its VERB"),
}


@pytest.mark.parametrize("verb", ["open", "apply", "resync", "close"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_undone(place: Place, fault: str, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    act, kind, says = FAULTS[fault]
    monkeypatch.setenv("REFUSED", verb)
    timeout = 5 if kind is TimedOut else 20
    script = REFUSES.replace("FAULT", act)
    directors: list[Director] = []

    def life() -> None:
        directors.append(place.open(script, timeout=timeout))
        directors[0].apply([OTHER])
        directors[0].apply([WEB])
        directors[0].resync()
        directors[0].close()

    with pytest.raises(BenchError) as caught:
        life()
    assert type(caught.value) is kind
    assert says.replace("VERB", verb) in str(caught.value)
    assert "undoing was refused" not in str(caught.value)
    assert awaited(lambda: not any(SLEEP in each for each in running())), "a killed process ends a moment later"
    last = place.told()[-1]
    if verb == "open":
        assert place.verbs() == ["open", "close"], "a program that is half open is closed"
        assert place.left() == []
        place.open(script, timeout=timeout).close()
        return
    (director,) = directors
    if verb == "apply":
        assert (last["verb"], last["services"], last["changed"]) == ("apply", [], ["other"]), "as it was before"
    if verb == "close":
        assert (last["verb"], [each["name"] for each in last["services"]]) == ("resync", ["other", "web"])  # type: ignore[attr-defined]
    assert director.intact() == (verb != "resync")
    director.apply([WEB])
    assert director.intact()
    director.close()
    assert place.left() == []


def test_what_cannot_be_undone_says_so_and_is_no_more_intact(place: Place) -> None:
    director = place.open('#!/bin/sh\n[ "$1" != apply ] || { echo stuck >&2; exit 1; }\n')
    assert director.intact()
    with pytest.raises(BenchError, match=r"mine refuses to apply: stuck \(undoing was refused, too"):
        director.apply([WEB])
    assert not director.intact(), "the next change begins with a resync"
    director.resync()
    assert director.intact()
    director.close()


SERVED: dict[str, tuple[str, type[BenchError], str]] = {
    "refuses": ('print(\'{"error": "no room"}\', flush=True); continue', BenchError, "refuses to apply: no room"),
    "by its nature": ('print(\'{"error": "no", "code": 4}\', flush=True); continue', Unsupported, "to apply: no"),
    "ends": ("sys.exit('too much')", BenchError, "mine has ended with exit code 1 during apply: too much"),
    "crashes": ("os.kill(os.getpid(), 11)", BenchError, "mine was killed by SIGSEGV during apply"),
    "falls silent": (f"os.system('{SLEEP}')", TimedOut, "mine does not end its apply"),
    "talks nonsense": ("print('ok', flush=True); continue", BenchError, "gives no answer to apply that can be read"),
    "talks too much": ("os.write(1, b'{}\\n{}\\n'); continue", BenchError, "mine answers without being asked"),
    "closes its stdout": (f"os.close(1); os.system('{SLEEP}')", BenchError, "has closed its stdout during apply"),
}


@pytest.mark.parametrize("fault", SERVED)
def test_a_fault_of_a_program_that_serves_is_told_and_the_next_call_begins_anew(place: Place, fault: str) -> None:
    act, kind, says = SERVED[fault]
    once = f"""if call["changed"] == ["web"] and not os.path.exists(os.environ["PLANE_STATE"] + "/once"):
        open(os.environ["PLANE_STATE"] + "/once", "w").close()
        {act}"""
    director = place.open(SERVES.replace("FAULT", once), serve=True, timeout=10 if kind is TimedOut else 20)
    director.apply([OTHER])
    with pytest.raises(BenchError) as caught:  # noqa: PT012
        director.apply([WEB])
        director.apply([OTHER])  # what has come unasked is noticed when a call begins
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert awaited(lambda: not any(SLEEP in each for each in running())), "a killed process ends a moment later"
    director.resync()
    assert director.intact()
    last = place.told()[-1]
    assert last["verb"] == "resync"
    director.close()
    assert place.left() == []


def test_a_program_that_serves_and_dies_between_calls_is_started_again(place: Place) -> None:
    director = place.open(SERVES.replace("FAULT", ""), serve=True)
    director.apply([WEB])
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if f"{place.directory}/program".encode() in path.read_bytes():
            os.kill(int(path.parent.name), signal.SIGKILL)
    with pytest.raises(BenchError, match="killed by SIGKILL"):
        director.footprint()
    assert [each.objects for each in director.footprint()] == [7]
    assert place.verbs()[-3:] == ["open", "resync", "footprint"]
    director.close()
    assert place.left() == []


@pytest.mark.parametrize(
    ("script", "says"),
    [("no interpreter is named here", "Exec format error"), ("#!/no/such/interpreter\n", "No such file")],
)
@pytest.mark.parametrize("serve", [False, True])
def test_what_is_no_program_is_a_prerequisite_that_is_missing(
    place: Place, script: str, says: str, serve: bool
) -> None:
    with pytest.raises(Prerequisite, match=f"mine cannot be started: {says}"):
        place.open(script, serve=serve)
    assert place.left() == []


def test_a_transport_that_it_does_not_serve_is_refused_before_it_is_called(place: Place) -> None:
    (place.directory / "program").write_text(TELLS, "utf-8")
    (place.directory / "program").chmod(0o755)
    argv = (f"{place.directory}/program",)
    director = place.begin(PlaneProgram("mine", "mine", "", "lb", argv, str(place.directory), protocols=("udp",)))
    with pytest.raises(Unsupported, match="net/web: mine does not serve tcp"):
        director.apply([WEB])
    assert place.verbs() == ["open"]
    director.close()


def test_verbs_that_it_need_not_know_may_be_refused(place: Place) -> None:
    script = "#!/bin/sh\ncase $1 in open | apply | close) ;; *) echo there is no verb $1 >&2; exit 1 ;; esac\n"
    director = place.open(script)
    assert (director.footprint(), director.counters(), director.intact()) == ([], [], True)
    director.close()


# -- what it starts ---------------------------------------------------------------------------------------------------

DAEMON = f"""#!/bin/sh
case $1 in
open) setsid sh -c 'echo $$ >"$PLANE_STATE/pid"; exec {SLEEP}' & ;;
resync) kill -0 "$(cat "$PLANE_STATE/pid")" && pgrep -x sleep >/dev/null ;;
esac
"""


@pytest.mark.parametrize("end", ["close", "release"])
def test_a_daemon_lives_from_call_to_call_and_ends_with_its_site(place: Place, end: str) -> None:
    director = place.open(DAEMON)
    assert awaited(lambda: any(SLEEP in each for each in running())), "a call does not wait for it"
    assert awaited(lambda: os.path.exists(f"{place.journal.scratch(place.netns)}.net/pid"))
    director.resync()
    getattr(director, end)()
    assert place.left() == []


def test_a_program_whose_end_is_refused_is_ended_all_the_same(place: Place) -> None:
    director = place.open(DAEMON.replace("esac", "close) echo busy >&2; exit 1 ;;\nesac"))
    assert awaited(lambda: any(SLEEP in each for each in running()))
    with pytest.raises(BenchError, match="mine refuses to close: busy"):
        director.release()
    assert place.left() == []


def test_nothing_is_left_of_it_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_text(DAEMON, "utf-8")
    path.chmod(0o755)
    child = os.fork()
    if not child:
        run = Journal()
        run.record("netns", f"{run.run}-lb")
        netns.create(f"{run.run}-lb")
        Place(tmp_path, run).open(DAEMON)
        (tmp_path / "ready").touch()
        signal.pause()
    assert awaited(lambda: (tmp_path / "ready").exists() and any(SLEEP in each for each in running()))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert awaited(lambda: not any(SLEEP in each for each in running())), "they end with it, without `clean`"
    removed = journal.clean()
    assert any("removed scratch" in each for each in removed)
    assert any("removed process" in each for each in removed)
    assert not [each for each in running() if str(tmp_path) in each]
