"""What unit tests take for a kernel tells what a real one tells today: see tests/recorded.py."""

from __future__ import annotations

import pytest

from bench.documents import Event, Trial
from tests import recorded

AGREE = 0.05
"""By so much a figure may differ from its recording, by the instruction clock: another compiler's generator, say."""


def shape(value: object) -> object:
    """Return the names and the kinds of what a document has, without the values.

    What only has texts is a table: sysctls and mitigations have other names with another kernel of the same version.
    """
    if isinstance(value, dict):
        found = {name: shape(each) for name, each in value.items()}
        return "texts" if found and all(each == "str" for each in found.values()) else found
    if isinstance(value, list):
        return sorted({repr(shape(each)) for each in value})
    return "number" if isinstance(value, int | float) else type(value).__name__


def shapes(events: list[Event]) -> dict[object, object]:
    return {recorded.key(event): (event.text, shape(event.data)) for event in events}


def measured(recording: recorded.Recording) -> list[Trial]:
    return [trial for trial in recording.trials() if not trial.warmup]


@pytest.mark.night
@pytest.mark.parametrize("name", recorded.COMMANDS)
def test_a_recording_is_what_a_kernel_tells_today(name: str) -> None:
    kept, made = recorded.read(name), recorded.record(recorded.COMMANDS[name])
    assert made.job == kept.job, "the program asks for something else: python -m tests.recorded"
    assert made.code == kept.code
    assert (made.kernel.name, made.kernel.clock) == (kept.kernel.name, kept.kernel.clock)
    assert shapes(made.events) == shapes(kept.events), "a kernel tells something else: python -m tests.recorded"
    for now, then in zip(measured(made), measured(kept), strict=True):
        assert now.figures["instructions_per_connection"] == pytest.approx(
            then.figures["instructions_per_connection"], rel=AGREE
        )
    cells = [[event.data for event in each.events if event.kind == "cell"] for each in (made, kept)]
    for now, then in zip(*cells, strict=True):
        assert (now["outcome"], now["expected"]) == (then["outcome"], then["expected"])
