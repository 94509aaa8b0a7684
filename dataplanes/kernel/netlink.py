"""A netlink socket bound to a namespace, made for bulk: many requests in one write, and one acknowledgement.

The kernel drops answers that do not fit the socket's receive buffer (net/netlink/af_netlink.c, netlink_overrun), and
every refused request has an answer. So a write holds only as many requests as the buffer can take refusals.

pyroute2 encodes and decodes the messages. Its sockets are not used, because they fork a child to enter a namespace
(pyroute2/process.py) and run an event loop per call. Under emulation that costs more than the kernel's own work.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from dataplanes.errors import KernelRefused
from dataplanes.kernel import netns

ROUTE, NETFILTER, GENERIC = 0, 12, 16
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCL, REPLACE, APPEND = 0x400, 0x200, 0x100, 0x800
_ERROR, _DONE = 2, 3
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
_DUMPS = 20  # attempts to read a list that changes meanwhile
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_NLMSG = struct.Struct("=IHHII")
_HEADER = struct.Struct("=HH").unpack_from  # the header of an attribute
_CHUNK = 128 * 1024  # bytes in one write, well under the socket's send buffer
_REQUESTS = 128  # in one write; each error takes 1 KiB of the receive buffer, which is 208 KiB by default
_FD_SETSIZE = 1024
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("=16si20x")


class NetlinkError(KernelRefused):
    """The kernel's refusal of a request: `errno`, and the `index` of the request."""

    def __init__(self, code: int, index: int, where: str, detail: str) -> None:
        super().__init__("netlink request refused", where=where, why=detail or os.strerror(code))
        self.errno = code
        self.index = index
        self.sent = 0  # how many requests were sent in all
        self.refused: frozenset[int] = frozenset((index,))  # the indexes of those that were not carried out


class Request:
    """One message: its type, its flags beyond REQUEST, and the encoded body behind the netlink header."""

    __slots__ = ("body", "flags", "kind")

    def __init__(self, kind: int, flags: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded to four bytes."""
    return struct.pack("=HH", len(payload) + 4, kind) + payload + b"\0" * (-len(payload) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message by type, without their nested flags.

    Of several with one type the last one counts.
    """
    found, offset, last = {}, 0, len(data) - 4
    while offset <= last:
        length, kind = _HEADER(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def aside(made: socket.socket) -> socket.socket:
    """Return the same socket with a high descriptor, if the limit allows one.

    The low descriptors are left to libnftables, which waits by select() (nftables, src/mnl.c, mnl_batch_talk) and
    aborts beyond FD_SETSIZE. With a handle per container, 300 containers reach that.
    """
    try:
        high = fcntl.fcntl(made.fileno(), fcntl.F_DUPFD_CLOEXEC, _FD_SETSIZE)
    except OSError:
        return made
    made.close()
    return socket.socket(fileno=high)


class Watch:
    """A listener for changes in a namespace, whoever makes them."""

    def __init__(self, name: str, protocol: int, *groups: int) -> None:
        """Open the socket. Each of `groups` is an RTNLGRP_* or NFNLGRP_*."""
        with netns.inside(name):
            self._socket = aside(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol))
        self._socket.bind((0, sum(1 << (group - 1) for group in groups)))
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def heard(self) -> bool:
        """Return True if anything was changed since the last call."""
        heard = False
        while self._poll.poll(0):
            heard = True
            with suppress(OSError):  # ENOBUFS: there were more messages than the socket holds
                self._socket.recv(1)
        return heard


def _raise_first(refused: dict[int, NetlinkError], sent: int, ignore: Sequence[int]) -> None:
    """Raise the first error that is not ignored. It has the indexes of all requests that were not carried out."""
    for error in refused.values():
        if error.errno not in ignore:
            error.sent, error.refused = sent, frozenset(refused)
            raise error


class Netlink:
    """A blocking netlink socket in one namespace."""

    def __init__(self, name: str, protocol: int) -> None:
        """Open the socket in namespace `name`. Raises KernelRefused if that does not exist."""
        self.netns = name
        with netns.inside(name):
            self._socket = aside(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol))
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.settimeout(60)
        self._sequence = 1

    def send(self, requests: Iterable[Request], *, ignore: Sequence[int] = ()) -> None:
        """Have every request carried out in order. Raises `NetlinkError` for the first one that is refused.

        Errors whose number is in `ignore` do not count. Later requests of the same chunk are still carried out, because
        the kernel goes on to the next message of a write after an error (net/netlink/af_netlink.c, netlink_rcv_skb).
        """
        refused: dict[int, NetlinkError] = {}
        chunk: list[bytes] = []
        position = size = number = 0
        for request in requests:
            data = self._encode(request, self._sequence + number)
            if size + len(data) > _CHUNK or number == _REQUESTS:
                refused |= self._exchange(chunk, position)
                position, chunk, size, number = position + len(chunk), [], 0, 0
                _raise_first(refused, position, ignore)
                data = self._encode(request, self._sequence)
            chunk.append(data)
            size += len(data)
            number += 1
        if chunk:
            refused |= self._exchange(chunk, position)
            _raise_first(refused, position + len(chunk), ignore)

    def transact(self, subsystem: int, *requests: Request) -> None:
        """Have requests of a subsystem of netfilter carried out as one transaction: all, or none if one is refused."""
        header = struct.pack(">BBH", 0, 0, subsystem)  # struct nfgenmsg
        batch = (Request(_BATCH_BEGIN, 0, header), *requests, Request(_BATCH_END, 0, header))
        chunk = [self._encode(each, self._sequence + number) for number, each in enumerate(batch)]
        _raise_first(self._exchange(chunk, -1, acknowledged=len(requests)), len(requests), ())

    def dump(self, kind: int, body: bytes, flags: int = DUMP) -> list[tuple[int, bytes]]:
        """Return the (type, body) of every message with which the kernel answers a dump or a single get.

        If the list changed meanwhile, it is read again. Raises `NetlinkError`, also for a dump that broke off.
        """
        for _ in range(_DUMPS):
            answer = self._answers(Request(kind, flags, body))
            if answer is not None:
                return answer
        raise KernelRefused(
            "a kernel list cannot be read in one piece", where=self.netns, why=f"it changed {_DUMPS} times meanwhile"
        )

    def _answers(self, request: Request) -> list[tuple[int, bytes]] | None:
        """Return the kernel's answer, or None if the kernel says that its parts are from different times."""
        expected = self._sequence
        self._sequence += 1
        self._socket.send(self._encode(request, expected))
        answer: list[tuple[int, bytes]] = []
        whole = True
        while True:
            for message, flags, sequence, payload in self._receive():
                if sequence != expected:  # left over from an earlier request whose answers were not awaited
                    continue
                whole = whole and not flags & _INTERRUPTED
                if message in (_DONE, _ERROR):
                    error = self._error(payload, 0)
                    if error:
                        raise error
                    return answer if whole else None
                answer.append((message, payload))
                if not request.flags & DUMP:
                    return answer

    def index(self, interface: str) -> int:
        """Return the index of an interface. Raises NetlinkError if it does not exist.

        It uses an ioctl, which every socket takes (net/socket.c, sock_do_ioctl). RTM_GETLINK answers with everything
        about the link, and decoding that costs more than the request that needs the index.
        """
        try:
            found = fcntl.ioctl(self._socket, _SIOCGIFINDEX, _IFREQ.pack(interface.encode(), 0))
        except OSError as error:
            raise NetlinkError(error.errno or 0, 0, self.netns, f"{interface}: {error.strerror}") from error
        return int(_IFREQ.unpack(found)[1])

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def _encode(self, request: Request, sequence: int) -> bytes:
        length = 16 + len(request.body)
        head = _NLMSG.pack(length, request.kind, request.flags | REQUEST, sequence, 0)
        return head + request.body + b"\0" * (-length % 4)

    def _exchange(self, chunk: list[bytes], position: int, acknowledged: int = -1) -> dict[int, NetlinkError]:
        # Only one message asks for an acknowledgement, which comes after the errors of all earlier messages. It is the
        # last one, but the end of a transaction is acknowledged only since Linux 6.10 (net/netfilter/nfnetlink.c).
        last = bytearray(chunk[acknowledged])
        struct.pack_into("=H", last, 6, struct.unpack_from("=H", last, 6)[0] | ACK)
        chunk[acknowledged] = bytes(last)
        begin, end = self._sequence, self._sequence + range(len(chunk))[acknowledged]
        self._socket.send(b"".join(chunk))
        self._sequence += len(chunk)
        refused: dict[int, NetlinkError] = {}
        while True:
            for message, _, sequence, payload in self._receive():
                if message != _ERROR or not begin <= sequence <= end:
                    continue
                error = self._error(payload, position + sequence - begin)
                if error:
                    refused[error.index] = error
                if sequence == end or (error and acknowledged >= 0):  # one error ends a transaction
                    return refused

    def _error(self, payload: bytes, index: int) -> NetlinkError | None:
        """Return the error in an error message or in the end of a dump, or None. A dump's end may carry no number."""
        code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
        if code <= 0:
            return None
        # With CAP_ACK the reply carries only the request's header (16 bytes), then the extended-ack attributes.
        detail = attributes(payload[20:]).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
        return NetlinkError(code, index, self.netns, f"{os.strerror(code)}: {detail}" if detail else os.strerror(code))

    def _receive(self) -> Iterable[tuple[int, int, int, bytes]]:
        """Yield type, flags, sequence number and body of each message of one read."""
        try:
            data = self._socket.recv(1 << 20)
        except OSError as error:
            raise KernelRefused("a netlink answer was lost", where=self.netns, why=str(error)) from error
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _NLMSG.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += length + (-length % 4)
