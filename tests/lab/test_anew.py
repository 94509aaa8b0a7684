"""The kernel accepts the classifier at a bridge's vxlan devices and removes it again.

Its effect is tested by a check.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dataplanes import anew
from dataplanes.kernel import netns, process
from dataplanes.kernel.rtnl import Rtnl

NAME = f"hanew-{os.getpid()}"


@pytest.fixture
def bridged() -> Iterator[str]:
    """Yield a namespace with a bridge br0 and two ports, of which vxlan0 is a vxlan device."""
    netns.create(NAME)
    try:
        with Rtnl(NAME) as rtnl:
            rtnl.send([rtnl.link_add("br0", "bridge"), rtnl.vxlan_add("vxlan0", 77, 4789)])
            rtnl.veth_add("veth0", "veth1", NAME, mac="02:42:0a:00:00:07", mtu=1450)
            rtnl.send(rtnl.link_set(port, master=rtnl.index("br0"), up=True) for port in ("vxlan0", "veth0"))
        yield NAME
    finally:
        netns.delete(NAME)


def queues(name: str) -> str:
    return process.run(name, ("tc", "qdisc", "show"))


def test_it_is_at_the_vxlan_device_only_and_goes_again(bridged: str) -> None:
    before = queues(bridged)
    anew.look(bridged, "br0")
    assert "anew" in process.run(bridged, ("tc", "filter", "show", "dev", "vxlan0", "ingress"))
    assert [line.split()[4] for line in queues(bridged).splitlines() if "ingress" in line] == ["vxlan0"]
    anew.stop(bridged, "br0")
    assert queues(bridged) == before
    anew.stop(bridged, "br0")
