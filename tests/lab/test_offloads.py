"""Checksums that a veth leaves out, because the kernel takes it for a device that adds them."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns, offloads
from dataplanes.kernel.rtnl import Rtnl
from scenarios.checks.world import checksum

pytestmark = pytest.mark.planes("nft-lb")

SENDER, RECEIVER = f"hsender-{os.getpid()}", f"hreceiver-{os.getpid()}"
_ETH_P_IP = 0x0800


@pytest.fixture(autouse=True)
def veth() -> Iterator[None]:
    """Two namespaces with a veth between them."""
    netns.create(SENDER)
    netns.create(RECEIVER)
    try:
        with Rtnl(SENDER) as here, Rtnl(RECEIVER) as there:
            here.veth_add("v0", "v1", RECEIVER, mac="02:42:00:00:00:02", mtu=1500)
            here.send([here.link_set("v0", up=True), here.address_add("v0", "10.9.0.1/24")])
            there.send([there.link_set("v1", up=True)])
            here.send([here.neighbour_set("v0", "10.9.0.2", "02:42:00:00:00:02")])
            while not (here.carries("v0") and there.carries("v1")):
                time.sleep(0.01)
        yield
    finally:
        netns.delete(SENDER)
        netns.delete(RECEIVER)


def _is_right() -> bool:
    """Return True if a datagram arrives with the checksum of what it has."""
    with netns.inside(RECEIVER), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as tap:
        tap.bind(("v1", _ETH_P_IP))
        tap.settimeout(5)
        with netns.inside(SENDER), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"contents", ("10.9.0.2", 9))
        packet = tap.recv(2048)
    datagram = packet[20:]
    pseudo = packet[12:20] + struct.pack(">BBH", 0, socket.IPPROTO_UDP, len(datagram))
    return checksum(pseudo + datagram) == bytes(2)


def test_the_kernel_computes_them_when_it_is_told_to() -> None:
    assert not _is_right(), "a veth has them left out"
    offloads.checksum(SENDER, "v0")
    assert _is_right()


def test_an_interface_that_is_missing_is_an_error() -> None:
    with pytest.raises(KernelRefused, match="v7: checksums are not computed: No such device"):
        offloads.checksum(SENDER, "v7")
