"""What the story of a flow tells of errors that the network sends, and of sightings for which there was no room."""

from __future__ import annotations

import re

import pytest

from bench.analysis.story import story
from bench.documents.tracing import Tracing
from bench.inside import tracing
from bench.report.story import lines
from dataplanes import follower
from dataplanes.kernel.btf import KernelTypes
from tests.lab.conftest import CLIENT, running

REFUSED = "exec 3<>/dev/udp/lone/9 && printf w >&3 && head -c 1 <&3"
MANY = "for n in $(seq 40); do exec 3<>/dev/tcp/lone/80 && printf w >&3 && head -c 1 <&3 || exit; done"
pytestmark = pytest.mark.trace


@pytest.fixture(scope="module")
def types() -> KernelTypes:
    return follower.of_this_kernel()


@pytest.mark.parametrize("plane", ["nft-lb", "ipvs-lb", "nft-bridge", "ebpf-tc"])
def test_an_icmp_error_is_followed_back_to_the_client(plane: str, types: KernelTypes) -> None:
    with running(plane, "matrix") as lab, tracing.attached(lab, types) as attached:
        asked = Tracing(CLIENT, "lone", "udp", command=["bash", "-c", REFUSED])
        found = story(tracing.follow(lab, asked, attached))
    print("\n".join(lines(found)))  # pytest shows it if the test fails
    errors = [way for way in found.ways if way.direction == "error" and way.what == "ICMP port unreachable"]
    assert errors
    assert [step.hook for step in errors[0].steps if step.kind == "rewritten"]
    assert (errors[0].end.kind, errors[0].passages[-1].namespace) == ("arrived", CLIENT)


def test_sightings_that_found_no_room_are_counted_and_told(types: KernelTypes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "_MOST_EVENTS", 64)
    with running("nft-lb", "matrix") as lab, tracing.attached(lab, types) as attached:
        asked = Tracing(CLIENT, "lone", command=["bash", "-c", MANY])
        found = story(tracing.follow(lab, asked, attached))
    assert found.flow.lost > 0
    assert re.search(rf"{found.flow.lost:,} sightings were lost", "\n".join(lines(found)))
