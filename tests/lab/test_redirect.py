"""What a plane sends past the bridge no bridge sees. What it does not know the way to goes over the bridge."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from dataplanes import classifiers
from dataplanes.ebpf import Ebpf
from dataplanes.kernel import process
from dataplanes.placed import PlacedPlane
from scenarios.lab import Lab
from tests.lab.conftest import CLIENT, VIP, Labs, View, running

pytestmark = pytest.mark.planes("ebpf-redirect")

HERE = "worker2"  # the client's node; my-web.1 and my-web.2 are there, my-web.3 is on worker1
WEB = ("10.0.0.3", "10.0.0.4", "10.0.0.5")


@contextmanager
def bridges_shut(lab: Lab, *nodes: str) -> Iterator[None]:
    """IPv4 does not pass the bridges of these nodes; ARP does."""
    names = [name for kind, node, name in lab.namespaces() if kind == "overlay" and node in nodes]
    assert names
    for name in names:
        hook = "{ type filter hook prerouting priority -300; }"
        table = f"add table bridge shut; add chain bridge shut frames {hook}"
        process.run(name, ("nft", f"{table}; add rule bridge shut frames ether type ip drop"))
    try:
        yield
    finally:
        for name in names:
            process.run(name, ("nft", "delete", "table", "bridge", "shut"))


def answers(lab: Lab, address: str) -> bool:
    """Whether a connection to one of the servers is served."""
    with lab.socket(CLIENT, socket.SOCK_STREAM) as handle:
        handle.settimeout(0.5)
        try:
            handle.connect((address, 80))
            handle.sendall(b"w")
            return bool(handle.recv(256))
        except TimeoutError:
            return False


def known(lab: Lab) -> dict[str, set[str]]:
    """Node -> the containers that its programs know the way to."""
    assert lab.plane
    tables = cast(Ebpf, cast(PlacedPlane, lab.plane)._mechanism)._tables
    return {
        node: {socket.inet_ntoa(key) for key, _ in table.loaded.maps["stations"].items()}
        for (node, _), table in tables.items()
    }


def test_to_a_vip_nothing_passes_the_bridge_of_the_clients_node(labs: Labs) -> None:
    lab = labs("ebpf-redirect")
    assert all(answers(lab, address) for address in WEB)
    with bridges_shut(lab, HERE):
        assert View(lab).spread(6) == {"1": 2, "2": 2, "3": 2}
        assert View(lab).who_udp()[1] == VIP
        assert not any(answers(lab, address) for address in WEB)


@pytest.mark.parametrize("plane", ["ebpf-redirect@every=1", "direct-short"])
def test_every_packet_goes_past_the_bridges_if_told_to(labs: Labs, plane: str) -> None:
    lab = labs(plane)
    assert all(answers(lab, address) for address in WEB)
    with bridges_shut(lab, *lab.scenario.nodes):
        assert all(answers(lab, address) for address in WEB)
        if plane != "direct-short":
            assert View(lab).spread(6) == {"1": 2, "2": 2, "3": 2}


@pytest.mark.parametrize("plane", ["ebpf-redirect@every=1", "direct-short"])
def test_a_packet_to_a_router_goes_to_the_router(labs: Labs, plane: str) -> None:
    """The frame says where it goes, not the address in the packet."""
    lab = labs(plane)
    me, router, target = (
        next(e for e in lab.containers[name].endpoints if e.network == "my-network")
        for name in (CLIENT, "my-web.3", "my-web.2")
    )
    body = b"by way of a router"
    udp = struct.pack(">HHHH", 4321, 4322, 8 + len(body), 0) + body
    addresses = socket.inet_aton(me.address) + socket.inet_aton(target.address)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
    frame = bytes.fromhex((router.mac + me.mac).replace(":", "")) + b"\x08\x00" + head + udp
    with (
        lab.socket("my-web.3", socket.SOCK_RAW, socket.htons(0x0800), family=socket.AF_PACKET) as there,
        lab.socket(CLIENT, socket.SOCK_RAW, 0, family=socket.AF_PACKET) as sender,
    ):
        there.settimeout(5)
        there.bind(("eth0", 0x0800))
        sender.bind(("eth0", 0))
        sender.send(frame)
        assert there.recv(2048) == frame


@pytest.mark.parametrize("backend", ["my-web.1", "my-web.3"])
def test_a_backend_gets_frames_with_its_own_mac(labs: Labs, backend: str) -> None:
    lab = labs("ebpf-redirect")
    (endpoint,) = lab.containers[backend].endpoints
    with lab.socket(backend, socket.SOCK_RAW, socket.htons(0x0800), family=socket.AF_PACKET) as there:
        there.settimeout(5)
        there.bind(("eth0", 0x0800))
        View(lab).spread(3)
        assert there.recv(2048)[:6] == bytes.fromhex(endpoint.mac.replace(":", ""))


def test_every_node_knows_the_containers_that_there_are() -> None:
    with running("ebpf-redirect") as lab:
        everybody = {*WEB, "10.0.0.7"}
        assert known(lab) == {"worker1": everybody, "worker2": everybody}
        lab.crash("my-web.1")
        assert known(lab) == {"worker1": everybody - {"10.0.0.3"}, "worker2": everybody - {"10.0.0.3"}}
        lab.remove_task("my-web.3")  # the only one on worker1
        assert known(lab) == {"worker2": {"10.0.0.4", "10.0.0.7"}}
        lab.scale("my-web", 3)
        here = {each.address for container in lab.containers.values() for each in container.endpoints} - {"10.0.0.3"}
        nodes = {container.task.node for container in lab.containers.values()}
        assert known(lab) == dict.fromkeys(nodes, here)


def test_the_error_of_the_vxlan_device_is_addressed_to_the_client() -> None:
    """The device answers the frame it was given, in which it was the sender itself."""
    with running("ebpf-redirect", "narrow") as lab:
        (endpoint,) = lab.containers[CLIENT].endpoints
        with (
            lab.socket(CLIENT, socket.SOCK_RAW, socket.htons(0x0800), family=socket.AF_PACKET) as here,
            lab.socket(CLIENT, socket.SOCK_DGRAM) as client,
        ):
            here.settimeout(5)
            here.bind(("eth0", 0x0800))
            client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: IP_PMTUDISC_DO
            client.connect((lab.service("lone").vip, 80))
            client.send(bytes(1400))
            error = next(frame for frame in iter(lambda: here.recv(2048), b"") if frame[23] == socket.IPPROTO_ICMP)
    assert error[34:36] == bytes((3, 4))  # destination unreachable: fragmentation needed
    assert error[:6] == bytes.fromhex(endpoint.mac.replace(":", ""))


def test_a_container_that_joins_after_a_flush_hides_it_from_nobody() -> None:
    """Its attachment restores the program at the vxlan device, which must not stand for the other containers' then."""
    with running("ebpf-redirect") as lab:
        assert [each for _, _, name in lab.namespaces() for each in classifiers.detach_all(name)]
        lab.scale("my-web", 6)  # one more on each node
        assert View(lab).spread(6) == dict.fromkeys("123456", 1)
