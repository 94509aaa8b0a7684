"""The surroundings of a director without a lab: a client, three machines with backends, and a bridge between them.

Everything runs in one thread: a connection is made, and then the listener that got it is asked. Listeners are bound to
no address, so a machine holds as many backends as it has addresses.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import Counter

from dataplanes.base import Director, Hook, Reply, Site
from dataplanes.kernel import netns, sysctl
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.nft import Nft

PREFIX = f"hnft-{os.getpid()}-"
SWITCH, CLIENT, LB = PREFIX + "sw", PREFIX + "cl", PREFIX + "lb"
MACHINES = [PREFIX + f"m{number}" for number in range(3)]
PORTS = (80, 5353)
IP_PKTINFO = 8  # Python before 3.12 has no name for it
VIP, OTHER_VIP = "10.0.0.2", "10.0.0.6"
ADDRESS = {SWITCH: "10.0.0.1", CLIENT: "10.0.0.7", LB: "10.0.0.9"}
BACKENDS = [f"10.0.0.{20 + number}" for number in range(21)]  # spread over the machines in turn
HOOKS: dict[Hook, tuple[Reply, str, str]] = {
    "output": ("own-source", CLIENT, "eth0"),
    "input": ("snat", LB, "eth0"),
    "bridge": ("hairpin-snat", SWITCH, "br0"),
}
FORWARDS = {"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.send_redirects": "0"}


class World:
    """The namespaces, listeners and directors of a test."""

    def __init__(self) -> None:
        self.tcp: list[socket.socket] = []
        self.udp: list[socket.socket] = []
        self.open: list[socket.socket] = []
        self.directors: list[Director] = []
        self.owners: set[tuple[str, str]] = set()

    def build(self) -> None:
        for name in (SWITCH, CLIENT, LB, *MACHINES):
            netns.create(name)
        with Rtnl(SWITCH) as rtnl:
            rtnl.send([rtnl.link_add("br0", "bridge")])
            rtnl.send([rtnl.address_add("br0", "10.0.0.1/24"), rtnl.link_set("br0", up=True)])
            rtnl.send([rtnl.link_set("lo", up=True)])
            addresses = {CLIENT: [ADDRESS[CLIENT]], LB: [ADDRESS[LB]]}
            addresses |= {machine: BACKENDS[number::3] for number, machine in enumerate(MACHINES)}
            for number, (name, own) in enumerate(addresses.items()):
                end = f"p{number}"
                rtnl.veth_add(end, "eth0", name, mac=f"02:42:0a:00:00:0{number}", mtu=1450)
                rtnl.send([rtnl.link_set(end, up=True, master=rtnl.index("br0")), rtnl.hairpin(end, True)])
                with Rtnl(name) as inner:
                    inner.send([inner.link_set("lo", up=True), inner.link_set("eth0", up=True)])
                    inner.send(inner.address_add("eth0", f"{address}/24") for address in own)
                    while not (inner.carries("eth0") and rtnl.carries(end)):
                        pass
        sysctl.write(LB, FORWARDS | {"net.ipv4.conf.eth0.send_redirects": "0"})
        bridged = {"net.bridge.bridge-nf-call-iptables": "1", "net.ipv4.conf.br0.send_redirects": "0"}
        sysctl.write(SWITCH, FORWARDS | bridged)
        for machine in MACHINES:
            with netns.inside(machine):
                for port in PORTS:
                    listener = socket.create_server(("0.0.0.0", port), backlog=512)
                    self.tcp.append(listener)
                    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    self.udp.append(datagrams)
                    datagrams.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
                    datagrams.bind(("0.0.0.0", port))

    def demolish(self) -> None:
        for director in self.directors:
            director.close()
        for each in (*self.tcp, *self.udp, *self.open):
            each.close()
        for name in (*MACHINES, LB, CLIENT, SWITCH):
            netns.delete(name)

    def director(self, hook: Hook, *, at: str | None = None, mechanism: Nft | None = None) -> Director:
        reply, name, interface = HOOKS[hook]
        name = at or name
        address = ADDRESS.get(name) or BACKENDS[MACHINES.index(name)]
        site = Site(name, "web net", "node", "10.0.0.0/24", hook, reply, interface, address)
        director = (mechanism or Nft()).open(site)
        self.directors.append(director)
        return director

    def own(self, hook: Hook, vip: str = VIP) -> None:
        """Do what a placement does: give the balancing namespace the VIP as an address, except at the output hook."""
        _, name, interface = HOOKS[hook]
        if hook != "output":
            with Rtnl(name) as rtnl:
                rtnl.send([rtnl.address_add(interface, f"{vip}/32")])

    def connect(
        self, vip: str = VIP, port: int = 80, *, at: str = CLIENT
    ) -> tuple[socket.socket, socket.socket, str, str]:
        """Make a connection.

        Return the client's end, the backend's end, the backend's address and the source it saw.
        """
        with netns.inside(at):
            client = socket.socket()
        self.open.append(client)
        client.settimeout(5)
        client.connect((vip, port))
        listener = self._ready(self.tcp)
        server, (source, _) = listener.accept()
        self.open.append(server)
        assert client.getpeername() == (vip, port)
        return client, server, server.getsockname()[0], source

    def spread(self, count: int, vip: str = VIP, port: int = 80) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(count):
            client, server, backend, _ = self.connect(vip, port)
            server.close()
            client.close()
            found[backend] += 1
        return found

    def datagrams(self, vip: str = VIP, port: int = 5353, *, at: str = CLIENT) -> socket.socket:
        with netns.inside(at):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.open.append(client)
        client.settimeout(5)
        client.connect((vip, port))
        return client

    def exchange(self, client: socket.socket) -> tuple[str, str]:
        """Send one datagram and get it back. Return the backend's address and the source it saw."""
        client.send(b"?")
        server = self._ready(self.udp)
        _, info, _, peer = server.recvmsg(16, 64)
        asked = info[0][2]
        server.sendmsg(
            [b"!"], [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, asked[8:12], bytes(4)))], 0, peer
        )
        assert client.recv(16) == b"!"  # the socket is connected, so nothing arrives from another address than the VIP
        return socket.inet_ntoa(asked[8:12]), peer[0]

    def _ready(self, among: list[socket.socket]) -> socket.socket:
        ready, _, _ = select.select(among, [], [], 5)
        assert ready, "no backend was reached"
        found: socket.socket = ready[0]
        return found
