"""`bench explore` from its arguments to its document, on a kernel that tells again what a real one told."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.documents import Event
from bench.documents.exploration import Finding
from bench.kernels import Command, Kernel
from bench.outside import explore
from dataplanes.errors import TimedOut, Unsupported, Usage
from dataplanes.kernel import interrupt
from scenarios.explore import operations as do
from scenarios.explore.course import SequenceStep
from tests.recorded import COMMANDS, Replay, read
from tests.unit.conftest import Bench

EXPLORE = COMMANDS["explore"]


def step(operation: do.AnyOperation, expected: str, seen: str) -> SequenceStep:
    return SequenceStep(operation, operation.sentence(), expected, seen, expected == seen)


DONE = "the change is made"
CREATED, STALE = step(do.Create("web", 1), DONE, DONE), step(do.Visit("east", "web"), "answered by red", "refused")


def found(*steps: SequenceStep, times: int = 3) -> Event:
    return Event("finding", data=msgspec.to_builtins(Finding("nft-lb", list(steps), times, times)))


def faulty(machine: dict[str, Kernel], *events: Event, **more: Any) -> Replay:
    """Let the kernel tell more than it did."""
    recording = read("explore")
    recording.events.extend(events)
    kernel = machine["debian-6.12"] = Replay(recording, **more)
    return kernel


def test_nothing_found_is_exit_0(bench: Bench, machine: dict[str, Kernel]) -> None:
    done = bench(*EXPLORE, "-o", "found.json")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("nft-lb: nothing found; ")
    assert "seed 1" in done.stderr
    written = json.loads(Path("found.json").read_bytes())
    assert (written["kind"], written["schema"], written["findings"]) == ("exploration", 2, [])
    assert written["explored"][0]["operations"] >= 40
    assert (written["plan"]["seed"], written["plan"]["steps"], written["plan"]["seconds"]) == (1, 40, None)
    assert written["environment"]["kernel_name"] == "debian-6.12"
    kernel = machine["debian-6.12"]
    assert isinstance(kernel, Replay)
    assert kernel.jobs[0].exploring == {"seed": 1, "operations": 40, "sequences": []}


def test_a_finding_is_exit_1_and_is_kept_for_the_next_time(bench: Bench, machine: dict[str, Kernel]) -> None:
    kernel = faulty(machine, found(CREATED, CREATED, STALE, times=0), found(CREATED, STALE))
    done = bench(*EXPLORE, "-o", "found.json")
    assert done.exit_code == 1
    assert "(2 operations, seen again 3 of 3 times)" in done.stdout
    assert "     expected: answered by red\n     seen:     refused\n" in done.stdout
    assert "nft-lb: not as expected" in done.stdout
    assert "3 operations end with: refused" in done.stderr
    (finding,) = explore.exploration("found.json").findings
    assert finding.operations == [do.Create("web", 1), do.Visit("east", "web")]
    bench(*EXPLORE)
    first, second = (job.exploring["sequences"] for job in kernel.jobs)
    assert (first, second) == ([], [msgspec.to_builtins(finding.operations)])


def test_what_never_failed_again_is_told_besides_what_was_found_later(bench: Bench, machine: dict[str, Kernel]) -> None:
    once = msgspec.to_builtins(Finding("nft-lb", [CREATED, CREATED, STALE], 0, 3))
    faulty(machine, Event("finding", data=once), found(CREATED, STALE, times=0), found(CREATED, STALE))
    done = bench(*EXPLORE, "-o", "found.json")
    assert done.exit_code == 1
    assert "(3 operations, seen again 0 of 3 times)" in done.stdout
    assert [len(each.steps) for each in explore.exploration("found.json").findings] == [3, 2]


def test_sequences_that_do_not_count_are_told(bench: Bench, machine: dict[str, Kernel]) -> None:
    why = "the machine's table of neighbours was full"
    played = {"dataplane": "nft-lb", "operations": 50, "sequences": 3, "disturbed": 2, "disturbance": why}
    faulty(machine, Event("explored", data=played))
    done = bench(*EXPLORE, "-o", "found.json")
    assert done.exit_code == 0
    assert f"nft-lb: 2 more sequences do not count: {why}" in done.stdout


def test_a_file_is_played_again_on_its_plane_or_on_another(bench: Bench, machine: dict[str, Kernel]) -> None:
    faulty(machine, found(CREATED, STALE))
    bench(*EXPLORE, "-o", "found.json")
    kernel = faulty(machine, found(CREATED, STALE, times=1))
    done = bench("explore", "--replay", "found.json", "--kernel", "debian-6.12")
    assert done.exit_code == 1
    assert "  1. The service web is created with red." in done.stderr
    assert [plane.name for plane in kernel.jobs[0].selections] == ["nft-lb"]
    assert kernel.jobs[0].exploring["operations"] == 0
    assert len(kernel.jobs[0].exploring["sequences"]) == 1
    mended = faulty(machine, found(CREATED))
    assert bench("explore", "--replay", "found.json", "-d", "nft-lb", "--kernel", "debian-6.12").exit_code == 0
    assert [job.kind for job in mended.jobs] == ["explore"]


def test_no_failure_of_a_replay_is_lost_when_the_next_sequence_is_as_expected(
    bench: Bench, machine: dict[str, Kernel]
) -> None:
    faulty(machine, found(CREATED, STALE))
    bench(*EXPLORE, "-o", "found.json")
    document = json.loads(Path("found.json").read_bytes())
    Path("found.json").write_text(json.dumps(document | {"findings": document["findings"] * 2}), "utf-8")
    mended = faulty(machine, found(CREATED)).execute
    kernel = faulty(machine, found(CREATED, STALE, times=1))
    runs = iter((kernel.execute, mended))
    kernel.execute = lambda command, on_event: next(runs)(command, on_event)  # type: ignore[method-assign]
    done = bench("explore", "--replay", "found.json", "-d", "nft-lb", "--kernel", "debian-6.12", "-o", "again.json")
    assert done.exit_code == 1
    again = explore.exploration("again.json")
    assert [each.operations for each in again.findings] == [[CREATED.operation, STALE.operation]]
    assert [each.operations for each in again.explored] == [2 * each["operations"] for each in document["explored"]]


def ends_by(kernel: Replay, raise_: Callable[[], object]) -> None:
    """Let the kernel end by an exception when it has told everything."""
    execute = kernel.execute

    def executed(command: Command, on_event: Callable[[bytes], None]) -> int:
        code = execute(command, on_event)
        raise_()
        return code

    kernel.execute = executed  # type: ignore[method-assign]


def up() -> None:
    raise TimedOut("time is up")


def test_when_the_time_is_up_the_shortest_so_far_is_told(bench: Bench, machine: dict[str, Kernel]) -> None:
    ends_by(faulty(machine, found(CREATED, STALE, times=0)), up)
    done = bench("explore", "-d", "nft-lb", "--kernel", "debian-6.12", "--for", "5s", "--seed", "1")
    assert done.exit_code == 1
    assert "(2 operations, not played again)" in done.stdout


def test_a_signal_ends_it_with_what_was_found(bench: Bench, machine: dict[str, Kernel], deadly: list[int]) -> None:
    ends_by(faulty(machine, found(CREATED, STALE, times=0)), lambda: interrupt.strike(signal.SIGINT))
    done = bench(*EXPLORE, "-o", "found.json")
    assert deadly == [signal.SIGINT]
    assert "nft-lb: not as expected" in done.stdout
    assert len(explore.exploration("found.json").findings) == 1


def test_a_plane_that_cannot_be_explored_is_exit_4_unless_another_one_can(
    bench: Bench, machine: dict[str, Kernel]
) -> None:
    recording = read("explore")
    recording.events.append(Event.of(Unsupported("cannot be explored", where="nft-lb", why="it has no VIP of its own")))
    machine["debian-6.12"] = Replay(recording)
    done = bench(*EXPLORE)
    assert (done.exit_code, done.stdout) == (4, "nft-lb: not explored: it has no VIP of its own\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no data plane named"),
        (("-d", "direct"), "nothing to observe"),
        (("-d", "nft-lb", "--for", "soon"), "not a duration: 'soon'"),
        (("-d", "nft-lb", "--for", "0s"), "not a duration"),
        (("-d", "nft-lb", "--for", "25h"), "not a duration"),
        (("-d", "nft-lb", "--steps", "0"), "0 is not in the range"),
        (("-d", "nft-lb", "-o", "none/found.json"), "none/found.json"),
        (("--replay", "none.json"), "none.json: cannot read the file"),
        (("--replay", "found.json", "--seed", "1"), "--replay plays a file's sequences"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_a_wrong_request_is_refused_before_anything_is_made(
    bench: Bench, machine: dict[str, Kernel], arguments: tuple[str, ...], told: str
) -> None:
    done = bench("explore", "--kernel", "debian-6.12", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    kernel = machine["debian-6.12"]
    assert isinstance(kernel, Replay)
    assert kernel.jobs == []


def test_durations_are_read() -> None:
    assert [explore.duration(text) for text in ("90", "90s", "10m", "24h")] == [90, 90, 600, 86_400]
    for text in ("", "s", "-1s", "1.5m", "1d", "٣s", "9" * 30, "1m30s"):
        with pytest.raises(Usage):
            explore.duration(text)
