"""The check of recycled ports takes one second SYN for chance where ports are chosen at random, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scenarios.checks.limits import recycled_ports
from scenarios.checks.world import Delayed, World


class Net:
    """A world in which some of a client's connections need a second SYN."""

    def __init__(self, delayed: set[int], source_port: int = 51234) -> None:
        self._delayed, self._made, self._source_port = delayed, 0, source_port

    @contextmanager
    def service(self, *nodes: str) -> Iterator[Any]:
        yield SimpleNamespace(tasks=["probe1.1"])

    def netns(self, container: str) -> str:
        return container

    def alterable(self, names: list[str]) -> list[str]:
        return []

    def vip(self, service: str) -> str:
        return "10.0.0.2"

    def hang_up(self, container: str, address: str, source_port: int) -> Any:
        self._made += 1
        if self._made in self._delayed:
            raise Delayed("connected only when the SYN had been sent 2 times")
        return SimpleNamespace(task="my-web.1", source_port=self._source_port)


def test_one_connection_may_meet_a_port_that_waits_if_the_balancer_chooses_it() -> None:
    assert recycled_ports(cast(World, Net({77}))) == "connections answered: 128"


@pytest.mark.parametrize("net", [Net({2, 77}), Net({77}, source_port=40007)], ids=["two", "with the client's own port"])
def test_no_other_one_may(net: Net) -> None:
    with pytest.raises(Delayed):
        recycled_ports(cast(World, net))
