"""`bench trace` from its arguments to its story, on a kernel that tells again what a real one told."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bench.documents import Event, Job
from bench.documents.tracing import Followed
from bench.inside.tracing import ends
from bench.kernels import Kernel
from bench.prepare import objects
from dataplanes import catalog, follower
from dataplanes.requirements import Feature
from scenarios.checks.world import CLIENT
from tests.recorded import Recording, Replay, read
from tests.unit.conftest import Bench
from tests.unit.test_btf import TYPES, blob
from tests.unit.test_story import recorded
from tests.unit.test_testbed import Given

TRACE = ("trace", "-d", "nft-lb", "-s", "matrix", "--to", "lone", "--protocol", "udp", "--kernel", "debian-6.12")


class Traced(Replay):
    """A kernel that describes its types."""

    def types(self) -> bytes:
        return blob(TYPES)


def kernel(*flows: Followed, lacking: str = "") -> Traced:
    facts = read("inspect").kernel
    features = {f"CONFIG_{each.config}": "y" for each in follower.REQUIRES if isinstance(each, Feature)}
    config = {name: value for name, value in {**facts.config, **features}.items() if name != lacking}
    events = [read("explore").events[0], *(Event("flow", data=msgspec.to_builtins(flow)) for flow in flows)]
    job = Job("trace", selections=catalog.select("nft-lb"))
    return Traced(Recording([], replace(facts, config=config), job, 0, events))


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "compile_missing", lambda needs, kernel: None)


def test_the_story_is_what_the_page_shows(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = made = kernel(recorded("page"))
    done = bench(*TRACE)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("nft-lb: my-busybox.1 (10.0.0.7:40001) asks lone (10.0.0.8:80) by UDP\n")
    assert "PREROUTING" in done.stdout
    (job,) = made.jobs
    assert job.tracing == {
        "origin": "",
        "service": "lone",
        "protocol": "udp",
        "until": "reply",
        "command": [],
        "size": 1,
    }


def test_every_sighting_is_printed_if_asked_for(bench: Bench, machine: dict[str, Kernel]) -> None:
    flow = recorded("page")
    machine["debian-6.12"] = kernel(flow)
    few, all_ = (bench(*TRACE, *more).stdout.count("\n") for more in ((), ("--all",)))
    assert all_ - few == len(flow.sightings) + 1


def test_the_document_has_the_story_and_the_sightings(bench: Bench, machine: dict[str, Kernel]) -> None:
    flow = recorded("page")
    machine["debian-6.12"] = kernel(flow)
    written = json.loads(bench(*TRACE, "--json").stdout)
    (found,) = written["stories"]
    assert (written["kind"], written["plan"]["service"]) == ("trace", "lone")
    assert len(found["flow"]["sightings"]) == len(flow.sightings)
    assert [way["end"]["kind"] for way in found["ways"]] == ["arrived", "arrived"]


def test_the_drawing_is_written_beside_the_story(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = kernel(recorded("page"))
    told = bench(*TRACE)
    assert bench(*TRACE, "--svg", "way.svg").stdout == told.stdout
    drawing = Path("way.svg").read_text("utf-8")
    assert ">to 10.0.0.8:80 → 10.0.0.9:80<" in drawing
    assert ">followed on Linux 6.12.117+deb12-amd64<" in drawing
    assert json.loads(bench(*TRACE, "--svg", "again.svg", "--json").stdout)["kind"] == "trace"
    assert bench(*TRACE, "--svg", "-").stdout == drawing == Path("again.svg").read_text("utf-8")


def test_two_planes_are_in_one_drawing(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = kernel(recorded("page"), recorded("page"))
    drawing = bench(*TRACE, "--svg", "-").stdout
    assert drawing.count(">node worker1<") == 2
    assert ">nft-lb and nft-lb rewrite the same at the same places<" in drawing


def test_a_drawing_that_cannot_be_written_is_refused_before_anything_runs(
    bench: Bench, machine: dict[str, Kernel]
) -> None:
    machine["debian-6.12"] = made = kernel(recorded("page"))
    done = bench(*TRACE, "--svg", "nowhere/way.svg")
    assert (done.exit_code, made.jobs) == (2, [])
    assert "nowhere/way.svg" in done.stderr
    done = bench(*TRACE, "--svg", "-", "--json")
    assert (done.exit_code, made.jobs) == (2, [])
    assert "give --svg a file" in done.stderr


def test_no_answer_is_exit_1(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = kernel(replace(recorded("page"), answered=False, source="", answer="nothing for 5 s"))
    done = bench(*TRACE)
    assert (done.exit_code, done.stdout.splitlines()[-2]) == (1, "my-busybox.1 got nothing for 5 s")


def test_a_kernel_without_kprobes_is_refused_before_anything_runs(bench: Bench, machine: dict[str, Kernel]) -> None:
    machine["debian-6.12"] = made = kernel(recorded("page"), lacking="CONFIG_KPROBES")
    done = bench(*TRACE)
    assert (done.exit_code, made.jobs) == (3, [])
    assert "CONFIG_KPROBES" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--protocol", "dccp"), ("--until", "never"), ("-d", "nft-lbb"), ("--size", "0"), ("--size", "65508")),
        *(("--from", "my-web.9"), ("--to", "my-wob")),
    ],
)
def test_bad_arguments_are_exit_2(bench: Bench, machine: dict[str, Kernel], arguments: tuple[str, str]) -> None:
    assert bench("trace", "-d", "nft-lb", "--kernel", "debian-6.12", *arguments).exit_code == 2


def test_a_transport_that_a_plane_does_not_serve_is_exit_2(
    bench: Bench, machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "protocols", lambda selection: ("tcp", "udp"))
    done = bench(*TRACE[:-4], "--protocol", "sctp", "--kernel", "debian-6.12")
    assert done.exit_code == 2
    assert "nft-lb does not serve SCTP" in done.stderr
    assert "tcp, udp" in done.stderr


class Empty(Given):
    """A testbed whose container is on two networks, and whose service has no backend."""

    def __init__(self) -> None:
        super().__init__()
        (first,) = self.containers[CLIENT].endpoints
        self.containers[CLIENT].endpoints.insert(0, replace(first, network="other", address="10.1.0.7"))


@pytest.mark.parametrize("by_vip", [True, False])
def test_a_service_without_backends_is_asked_at_its_vip_from_its_network(by_vip: bool) -> None:
    assert ends(Empty(), CLIENT, "my-busybox", by_vip=by_vip) == ("10.0.0.7", "10.0.0.6")


def test_a_command_is_handed_on_and_its_exit_code_is_told(bench: Bench, machine: dict[str, Kernel]) -> None:
    flow = replace(recorded("page"), command=["ping", "-c1", "lone"], answer="exit code 0", source="")
    machine["debian-6.12"] = made = kernel(flow)
    done = bench(*TRACE, "--", "ping", "-c1", "lone")
    assert done.exit_code == 0, done.output
    head, *_, last = done.stdout.splitlines()
    assert head == "nft-lb: my-busybox.1 (10.0.0.7:40001) runs ping -c1 lone, which asks lone (10.0.0.8:80) by UDP"
    assert last == "ping ended with exit code 0"
    assert made.jobs[0].tracing["command"] == ["ping", "-c1", "lone"]
