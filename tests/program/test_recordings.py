"""What unit tests take for a kernel tells what a real one tells today: see tests/recorded.py."""

from __future__ import annotations

import pytest

from bench.documents import Event
from tests import recorded

AGREE = 0.03
"""By so much a figure may differ from its recording, by the instruction clock: another compiler's generator, say."""


def shape(value: object) -> object:
    """The names and the kinds of what a document has, without the values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return sorted({repr(shape(each)) for each in value})
    return "number" if isinstance(value, int | float) else type(value).__name__


def shapes(events: list[Event]) -> dict[object, object]:
    return {recorded.key(event): (event.text, shape(event.data)) for event in events}


@pytest.mark.parametrize("name", recorded.COMMANDS)
def test_a_recording_is_what_a_kernel_tells_today(name: str) -> None:
    kept, made = recorded.read(name), recorded.record(recorded.COMMANDS[name])
    assert made.job == kept.job, "the program asks for something else: python -m tests.recorded"
    assert made.code == kept.code
    assert (made.kernel.name, made.kernel.clock) == (kept.kernel.name, kept.kernel.clock)
    assert shapes(made.events) == shapes(kept.events), "a kernel tells something else: python -m tests.recorded"
    for now, then in zip(made.trials(), kept.trials(), strict=True):
        assert now.figures["instructions_per_connection"] == pytest.approx(
            then.figures["instructions_per_connection"], rel=AGREE
        )
    cells = [[event.data for event in each.events if event.kind == "cell"] for each in (made, kept)]
    for now, then in zip(*cells, strict=True):
        assert (now["outcome"], now["expected"]) == (then["outcome"], then["expected"])
