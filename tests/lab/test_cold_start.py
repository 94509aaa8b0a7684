"""A node that joins a running lab has every service, in all its containers."""

from __future__ import annotations

import pytest

from dataplanes.errors import Usage
from tests.lab.conftest import CLIENT, View, running
from tests.lab.test_seed import AT_RANDOM, PROGRAMMED, SERVING


@pytest.mark.parametrize("dataplane", [*SERVING, *AT_RANDOM, *PROGRAMMED])
def test_a_node_that_joins_has_every_service(dataplane: str) -> None:
    with running(dataplane) as lab:
        node = lab.containers[CLIENT].task.node
        there = [each for each in lab.containers.values() if each.task.node == node]
        taken = lab.add_node("latecomer", node)
        joined = [each for each in lab.containers.values() if each.task.node == "latecomer"]
        assert len(joined) == len(there) == 3
        assert taken.elapsed_ms > 0
        for container in joined:
            assert set(View(lab, container.task.name).spread(60)) == {"1", "2", "3"}, container.task.name
            assert View(lab, container.task.name).who(lab.service("my-busybox").vip)[0] == "1"
        with pytest.raises(Usage, match="latecomer: a node with this name exists already"):
            lab.add_node("latecomer", node)
