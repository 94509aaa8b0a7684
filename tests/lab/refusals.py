"""The kernel refuses one operation, the one a test names by its number.

A netlink request is changed into one that the kernel does not know. So the kernel itself refuses it, and carries out
the other requests of the same write. Programs, rulesets, settings and system calls are refused before they begin.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dataplanes.errors import KernelRefused
from dataplanes.kernel import bpf, iptables, ipvs, netlink, nft, process, sysctl
from dataplanes.kernel.netlink import Netlink, NetlinkError, Request


class Refusals:
    """A counter of operations, which refuses one of them."""

    def __init__(self) -> None:
        self.asked = 0
        self.refused = False
        self._number = -1

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Refuse the operation with this number within the block."""
        self.asked, self.refused, self._number = 0, False, number
        with pytest.MonkeyPatch.context() as patch:
            self._patch(patch)
            yield

    def now(self) -> bool:
        """Count an operation. Return True if it is the one to refuse."""
        found, self.asked = self.asked == self._number, self.asked + 1
        self.refused = self.refused or found
        return found

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        encode, call = Netlink._encode, bpf._call

        def encode_unknown(wire: Netlink, request: Request, number: int) -> bytes:
            if wire._socket.proto == netlink.NETFILTER and request.kind < 0x100:
                return encode(wire, request, number)  # the begin or the end of a batch, which asks for nothing
            return encode(wire, _unknown(request) if self.now() else request, number)

        def call_refused(command: int, attr: Any) -> int:
            return -errno.EPERM if self.now() else call(command, attr)

        patch.setattr(Netlink, "_encode", encode_unknown)
        patch.setattr(bpf, "_call", call_refused)
        for where, name in (
            (process, "run"),
            (sysctl, "_write"),
            (nft.Nftables, "run"),
            (iptables.Tables, "info"),
            (ipvs.Ipvs, "count"),
            (netlink.Netlink, "index"),
        ):
            patch.setattr(where, name, self._or_refused(getattr(where, name), name))

    def _or_refused(self, act: Callable[..., Any], name: str) -> Callable[..., Any]:
        def either(*args: Any, **kwargs: Any) -> Any:
            if self.now():
                if name == "index":
                    raise NetlinkError(errno.EIO, 0, "here", "refused by the test")
                raise KernelRefused(f"{name} refused", where="here", why="by the test")
            return act(*args, **kwargs)

        return either


def _unknown(request: Request) -> Request:
    """Return a request of the same subsystem that the kernel does not know."""
    if request.kind >= 0x100:  # nfnetlink: subsystem and message; generic families have lower numbers
        return Request(request.kind | 0xFF, request.flags, request.body)
    if request.kind >= 0x10 and len(request.body) >= 4 and request.body[1:4] == b"\1\0\0":  # struct genlmsghdr
        return Request(request.kind, request.flags, b"\xff" + request.body[1:])
    return Request(0xFF, request.flags, request.body)  # beyond RTM_MAX
