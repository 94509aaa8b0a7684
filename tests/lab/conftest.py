"""What the tests in namespaces share: a running lab per data plane, and a client's view from one of its containers."""

from __future__ import annotations

import socket
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
        """ID, source, source port, destination, destination port, TTL: as the backend that answered saw us."""
        with self.connect(address, port) as handle:
            handle.sendall(b"w")
            return handle.recv(256).decode().split()

    def who_udp(self, address: str = VIP, port: int = 80) -> tuple[list[str], str]:
        """The same by UDP, and the address the answer came from."""
        with self.datagram() as handle:
            handle.sendto(b"w", (address, port))
            answer, (source, _) = handle.recvfrom(256)
            return answer.decode().split(), source

    def spread(self, connections: int, address: str = VIP) -> Counter[str]:
        """Connections one after another: how many each backend answered."""
        return Counter(self.who(address)[0] for _ in range(connections))

    def resolve(self, name: str, kind: str = "A") -> tuple[str, list[str]]:
        """(response code, addresses)."""
        with self.datagram() as handle:
            handle.settimeout(30)  # the first question waits for the resolver to load its library
            handle.sendto(DNSRecord.question(name, kind).pack(), ("127.0.0.11", 53))
            reply = DNSRecord.parse(handle.recv(4096))
        from dnslib import RCODE

        return RCODE[reply.header.rcode], [str(each.rdata) for each in reply.rr if each.rtype == QTYPE.A]


Labs = Callable[[str], Lab]


@contextmanager
def running(dataplane: str, scenario: str = "seed") -> Iterator[Lab]:
    """A lab with a plane on."""
    (selection,) = catalog.select(dataplane)
    with Journal() as journal, trial.build(topology.load(scenario), selection, journal) as lab:
        yield lab


@pytest.fixture(scope="module")
def labs() -> Iterator[Labs]:
    """The seed lab with a plane on, built once per module and plane. Only for tests that do not change it."""
    with ExitStack() as stack:
        built: dict[str, Lab] = {}

        def get(dataplane: str) -> Lab:
            if dataplane not in built:
                built[dataplane] = stack.enter_context(running(dataplane))
            return built[dataplane]

        yield get
