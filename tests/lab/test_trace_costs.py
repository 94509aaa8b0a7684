"""By the instruction clock the story tells what the way has cost, without what following has."""

from __future__ import annotations

import socket
import time

import msgspec
import pytest

from bench.analysis.story import story
from bench.documents import Event, Job
from bench.documents.tracing import Followed
from bench.inside import observe, tracing
from bench.inside.asking import PORT
from dataplanes import catalog, follower
from dataplanes.follower import Follower
from scenarios.lab import Lab
from tests.lab.conftest import CLIENT, running

pytestmark = pytest.mark.idle
_TIMES = 16


def least(lab: Lab, protocol: str, followed: Follower | None = None) -> tuple[int, int]:
    """Return the instructions of a request and its answer, and what following has taken besides, where it is least."""
    found = []
    for _ in range(_TIMES):
        with lab.socket(CLIENT, {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}[protocol]) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            made.bind(("", PORT))
            before, begin = followed.spending() if followed else None, time.monotonic_ns()
            made.connect((lab.service("lone").vip, 80))
            made.send(b"w")
            made.recv(100)
            elapsed = time.monotonic_ns() - begin
            spent = followed.spent(followed.spending().since(before)) if followed and before else 0
        found.append((elapsed - spent, spent))
        time.sleep(0.01)
    return min(found)


@pytest.mark.parametrize("plane", ["nft-lb", "nft-bridge", "ipvs-container"])
def test_what_following_takes_is_left_out(plane: str) -> None:
    with running(plane, "matrix") as lab:
        bare = {protocol: least(lab, protocol)[0] for protocol in ("udp", "tcp")}
        with tracing.loopback(lab) as work, tracing.attached(lab, follower.of_this_kernel(), work) as attached:
            for protocol, cost in bare.items():
                attached.watch(lab.containers[CLIENT].netns, protocol, port=PORT)
                told, spent = least(lab, protocol, attached)
                print(protocol, cost, told, spent)  # pytest shows it if the test fails
                assert spent > 3 * cost  # so that it would be seen if it was not subtracted, or only the programs' own
                assert told == pytest.approx(cost, abs=0.015 * spent)


def test_the_packets_of_a_check_are_told_with_their_costs() -> None:
    flows: list[Followed] = []

    def tell(event: Event) -> None:
        if event.kind == "flow":
            flows.append(msgspec.convert(event.data["flow"], Followed))

    job = Job("matrix", selections=catalog.select("nft-lb"), checks=["reach.other-node"])
    job.traced = True
    observe.matrix(job, "instructions", tell, lambda lab: None)
    (flow,) = flows
    request, *_, reply = story(flow).ways
    costs = [request.instructions, *(step.instructions for step in request.steps), request.end.instructions]
    print(costs, reply.instructions)  # pytest shows it if the test fails
    assert flow.counted
    assert costs[0] == 0
    told = [each for each in costs if each is not None]
    assert len(told) == len(costs)
    assert told == sorted(told)
    assert 20_000 < told[-1] < 500_000  # thousands of instructions, and not the millions that following has taken
