"""Fixtures of the tests in namespaces: a running lab per data plane, and a client's view from one of its containers."""

from __future__ import annotations

import platform
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from dnslib import QTYPE, DNSRecord

from bench.inside import trial
from dataplanes import catalog
from scenarios import topology
from scenarios.journal import Journal
from scenarios.lab import Lab
from tests.lab.mutants.bed import Bed

CLIENT = "my-busybox.1"
VIP = "10.0.0.2"
BUSYBOX_VIP = "10.0.0.6"


class View:
    """The network as one container sees it."""

    def __init__(self, lab: Lab, container: str = CLIENT) -> None:
        self._lab = lab
        self._container = container

    def connect(self, address: str = VIP, port: int = 80) -> socket.socket:
        handle = self._lab.socket(self._container, socket.SOCK_STREAM)
        handle.settimeout(5)
        try:
            handle.connect((address, port))
        except OSError:
            handle.close()
            raise
        return handle

    def datagram(self) -> socket.socket:
        handle = self._lab.socket(self._container, socket.SOCK_DGRAM)
        handle.settimeout(5)
        return handle

    def who(self, address: str = VIP, port: int = 80) -> list[str]:
        """Return ID, source, source port, destination, destination port and TTL as the answering backend saw them."""
        with self.connect(address, port) as handle:
            handle.sendall(b"w")
            return handle.recv(256).decode().split()

    def who_udp(self, address: str = VIP, port: int = 80) -> tuple[list[str], str]:
        """Ask as `ask` by UDP. Return also the address from which the answer came."""
        with self.datagram() as handle:
            handle.sendto(b"w", (address, port))
            answer, (source, _) = handle.recvfrom(256)
            return answer.decode().split(), source

    def spread(self, connections: int, address: str = VIP) -> Counter[str]:
        """Make connections one after another. Return how many each backend answered."""
        return Counter(self.who(address)[0] for _ in range(connections))

    def resolve(self, name: str, kind: str = "A") -> tuple[str, list[str]]:
        """Resolve a name. Return the response code and the addresses."""
        with self.datagram() as handle:
            handle.settimeout(30)  # the first query waits until the resolver has loaded its library
            handle.sendto(DNSRecord.question(name, kind).pack(), ("127.0.0.11", 53))
            reply = DNSRecord.parse(handle.recv(4096))
        from dnslib import RCODE

        return RCODE[reply.header.rcode], [str(each.rdata) for each in reply.rr if each.rtype == QTYPE.A]


@pytest.fixture(autouse=True)
def own_machine(request: pytest.FixtureRequest) -> None:
    """A limit of the whole machine is changed only if that is a guest, whose name bench/kernels/init.c gives."""
    if request.node.get_closest_marker("machine"):
        assert platform.node() == "guest", "a limit of somebody's machine stays as it is"


Labs = Callable[[str], Lab]


@contextmanager
def running(dataplane: str, scenario: str = "seed") -> Iterator[Lab]:
    """Yield a lab with a data plane."""
    (selection,) = catalog.select(dataplane)
    with Journal() as journal, trial.build(topology.load(scenario), selection, journal) as lab:
        yield lab


@pytest.fixture(scope="module")
def labs() -> Iterator[Labs]:
    """Yield the seed lab with a data plane, built once per module and plane.

    It is only for tests that do not change it.
    """
    with ExitStack() as stack:
        built: dict[str, Lab] = {}

        def get(dataplane: str) -> Lab:
            if dataplane not in built:
                built[dataplane] = stack.enter_context(running(dataplane))
            return built[dataplane]

        yield get


@pytest.fixture(scope="session")
def beds() -> Iterator[Callable[[str], Bed]]:
    """Yield a lab whose plane can be damaged. There is one at a time: that of the plane that was asked for last."""
    there: list[Bed] = []

    def close() -> None:
        while there:
            there.pop().close()

    def get(dataplane: str) -> Bed:
        if not there or there[0].name != dataplane:
            close()
            there.append(Bed(dataplane))
        return there[0]

    yield get
    close()


def awaited(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
