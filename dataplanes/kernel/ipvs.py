"""The IPVS tables of one namespace, over generic netlink, programmed in bulk.

This module has only what service VIPs need: IPv4, fwmark services (any port, any protocol), port 0 destinations. It
packs the messages itself, because programming 1,000 services sends 4,000 of them; tests compare them with pyroute2's
encoding. `ip_vs_genl_new_service` needs all of scheduler, flags, timeout and netmask, or answers EINVAL
(net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_genl_parse_service).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Mapping

from msgspec import Struct

from dataplanes.errors import BenchError, KernelRefused, Prerequisite
from dataplanes.kernel import netlink, netns
from dataplanes.kernel.netlink import DUMP, Netlink, Request, attribute, attributes

_NEW_SERVICE, _DEL_SERVICE, _GET_SERVICE = 1, 3, 4
_NEW_DEST, _SET_DEST, _DEL_DEST, _GET_DEST = 5, 6, 7, 8
_FLUSH = 17
_SERVICE, _DEST = 1, 2  # IPVS_CMD_ATTR_*
MASQUERADE, DIRECT_ROUTE = 0, 3  # IP_VS_CONN_F_FWD_MASK values
_FORWARD_NAMES = {MASQUERADE: "Masq", DIRECT_ROUTE: "Route"}
_U16, _U32, _PORT = struct.Struct("=H"), struct.Struct("=I"), struct.Struct(">H")
_GENL_CTRL, _CTRL_GETFAMILY = 0x10, 3
_SO_GET_INFO = 1153  # IP_VS_SO_GET_INFO


class Listener(Struct, frozen=True):
    """What selects a virtual service by the packet itself."""

    protocol: str  # tcp, udp, sctp
    address: str
    port: int


ServiceKey = int | Listener
"""What selects a virtual service: a fwmark, or protocol, address and port."""
_NAMES = {6: "tcp", 17: "udp", 132: "sctp"}
_PROTOCOLS = {name: number for number, name in _NAMES.items()}


class Destination(Struct, frozen=True):
    """A destination of a virtual service, as the kernel reports it."""

    address: str
    forward: str  # Masq or Route
    weight: int
    active: int
    inactive: int
    connections: int
    packets: int
    bytes: int


class VirtualService(Struct, frozen=True):
    """A virtual service, as the kernel reports it."""

    key: ServiceKey
    scheduler: str
    destinations: list[Destination]


def _nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | 0x8000, payload)


def _service_key(key: ServiceKey) -> bytes:
    family = attribute(1, _U16.pack(socket.AF_INET))
    if isinstance(key, int):
        return family + attribute(5, _U32.pack(key))
    return (
        family
        + attribute(2, _U16.pack(_PROTOCOLS[key.protocol]))
        + attribute(3, socket.inet_aton(key.address) + bytes(12))  # union nf_inet_addr
        + attribute(4, _PORT.pack(key.port))
    )


def read_key(service: Mapping[int, bytes]) -> ServiceKey | None:
    """Return the key in a service's attributes; None if it is not one of IPv4."""
    if 5 in service:
        return int(_U32.unpack(service[5])[0])
    protocol = _NAMES.get(_U16.unpack(service[2])[0])
    if _U16.unpack(service[1])[0] != socket.AF_INET or protocol is None:
        return None
    return Listener(protocol, socket.inet_ntoa(service[3][:4]), _PORT.unpack(service[4])[0])


def service_body(key: ServiceKey, scheduler: str) -> bytes:
    """Return IPVS_CMD_ATTR_SERVICE of a new virtual service."""
    return _nested(
        _SERVICE,
        _service_key(key)
        + attribute(6, scheduler.encode() + b"\0")
        + attribute(7, struct.pack("=II", 0, 0xFFFFFFFF))  # flags, mask
        + attribute(8, _U32.pack(0))  # no persistence
        + attribute(9, b"\xff\xff\xff\xff"),  # netmask
    )


def destination_body(key: ServiceKey, address: str, forward: int, weight: int) -> bytes:
    """Return IPVS_CMD_ATTR_SERVICE and _DEST for one destination. Port 0 keeps the packet's own port."""
    port = 0 if isinstance(key, int) else key.port
    destination = (
        attribute(11, _U16.pack(socket.AF_INET))
        + attribute(1, socket.inet_aton(address) + bytes(12))  # union nf_inet_addr
        + attribute(2, _PORT.pack(port))
        + attribute(3, _U32.pack(forward))
        + attribute(4, _U32.pack(weight))
        + attribute(5, _U32.pack(0))
        + attribute(6, _U32.pack(0))
    )
    return _nested(_SERVICE, _service_key(key)) + _nested(_DEST, destination)


class Ipvs:
    """IPVS in one namespace. Raises Prerequisite if the kernel has none."""

    def __init__(self, name: str) -> None:
        self.netns = name
        self._netlink = Netlink(name, netlink.GENERIC)
        try:
            self._family = self._resolve()
        except BenchError:
            self._netlink.close()
            raise
        with netns.inside(name):
            self._socket = netlink.aside(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    def close(self) -> None:
        """Close the sockets. The tables stay. Idempotent."""
        self._netlink.close()
        self._socket.close()

    def count(self) -> int:
        """Return the number of services, by one system call."""
        try:
            info = self._socket.getsockopt(socket.SOL_IP, _SO_GET_INFO, 12)
        except OSError as error:
            raise KernelRefused("IPVS cannot be read", where=self.netns, why=error.strerror or "") from error
        return int(struct.unpack("=III", info)[2])  # struct ip_vs_getinfo

    def add_service(self, key: ServiceKey, scheduler: str = "rr") -> Request:
        """Return the request for a new service without destinations."""
        return self._request(_NEW_SERVICE, service_body(key, scheduler))

    def del_service(self, key: ServiceKey) -> Request:
        """Return the request that deletes a service with its destinations."""
        return self._request(_DEL_SERVICE, _nested(_SERVICE, _service_key(key)))

    def add_destination(self, key: ServiceKey, address: str, forward: int, weight: int) -> Request:
        """Return the request that adds a destination."""
        return self._request(_NEW_DEST, destination_body(key, address, forward, weight))

    def set_destination(self, key: ServiceKey, address: str, forward: int, weight: int) -> Request:
        """Return the request that changes a destination's weight."""
        return self._request(_SET_DEST, destination_body(key, address, forward, weight))

    def del_destination(self, key: ServiceKey, address: str) -> Request:
        """Return the request that deletes a destination."""
        return self._request(_DEL_DEST, destination_body(key, address, MASQUERADE, 0))

    def flush(self) -> Request:
        """Return the request that deletes every service, as `ipvsadm -C` does."""
        return self._request(_FLUSH, b"")

    def send(self, requests: Iterable[Request], *, ignore: tuple[int, ...] = ()) -> None:
        """Carry out requests in order (see `Netlink.send`)."""
        self._netlink.send(requests, ignore=ignore)

    def connections(self) -> int:
        """Return the number of connection entries."""
        with netns.inside(self.netns), open("/proc/thread-self/net/ip_vs_conn", encoding="ascii") as file:
            return sum(1 for _ in file) - 1

    def services(self) -> list[VirtualService]:
        """Return every IPv4 service with its destinations and counters."""
        found = []
        for _, body in self._netlink.dump(self._family, struct.pack("=BBH", _GET_SERVICE, 1, 0)):
            service = attributes(attributes(body[4:])[_SERVICE])
            key = read_key(service)
            if key is not None:
                found.append(VirtualService(key, service[6].rstrip(b"\0").decode(), self._destinations(key)))
        return found

    def _destinations(self, key: ServiceKey) -> list[Destination]:
        query = struct.pack("=BBH", _GET_DEST, 1, 0) + _nested(_SERVICE, _service_key(key))
        found = []
        for _, body in self._netlink.dump(self._family, query, DUMP):
            data = attributes(attributes(body[4:])[_DEST])
            statistics = attributes(data[12])  # IPVS_DEST_ATTR_STATS64
            count = [struct.unpack("=Q", statistics[kind])[0] for kind in (1, 2, 4)]
            found.append(
                Destination(
                    socket.inet_ntoa(data[1][:4]),
                    _FORWARD_NAMES.get(_U32.unpack(data[3])[0], "?"),
                    *(_U32.unpack(data[kind])[0] for kind in (4, 7, 8)),
                    *count,
                )
            )
        return found

    def _request(self, command: int, body: bytes) -> Request:
        return Request(self._family, 0, struct.pack("=BBH", command, 1, 0) + body)

    def _resolve(self) -> int:
        query = struct.pack("=BBH", _CTRL_GETFAMILY, 1, 0) + attribute(2, b"IPVS\0")
        try:
            answers = self._netlink.dump(_GENL_CTRL, query, 0)
        except netlink.NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            raise Prerequisite(
                "no IPVS", where=self.netns, why="the kernel has no ip_vs", fix="use --kernel guest"
            ) from error
        return int(_U16.unpack(attributes(answers[0][1][4:])[1])[0])
