"""The cause of a failed request is found in what was recorded of it, and its place is named by the last line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.analysis.story import story
from bench.documents.tracing import Followed
from bench.report.story import lines
from tests.conftest import ROOT
from tests.unit.test_story import recorded

CAUSES = msgspec.toml.decode((ROOT / "tests" / "lab" / "causes.toml").read_bytes(), type=dict[str, str])


def met(name: str) -> Followed:
    return recorded(str(Path("faults", name.replace(" ", "-"))))


@pytest.mark.parametrize("name", CAUSES)
def test_the_last_line_names_the_place_of_the_cause(name: str) -> None:
    assert list(lines(story(met(name))))[-1] == f"the cause is at {CAUSES[name]}"


@pytest.mark.parametrize("name", CAUSES)
def test_the_story_of_a_failure_fits_a_screen(name: str) -> None:
    assert len(list(lines(story(met(name))))) <= 24


def test_a_request_that_is_sent_again_is_a_packet_of_its_own() -> None:
    request = next(way for way in story(met("SNAT dropped")).ways if way.direction == "request")
    assert (request.what, request.others, len(request.steps)) == ("SYN", 1, 2)


def test_an_icmp_error_that_a_packet_becomes_is_a_packet_of_its_own() -> None:
    request, error = story(met("MTU too small")).ways
    assert (request.end.kind, request.end.function) == ("lost", "vxlan_xmit")
    assert (error.direction, error.what) == ("error", "ICMP fragmentation needed")
