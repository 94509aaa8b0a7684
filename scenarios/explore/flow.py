"""A flow of the model: what is known of one connection, or of what one UDP socket sends."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from scenarios.explore.operations import BACKENDS

Fate = Literal["whole", "cut", "gone", "unsure"]
"""The state of a flow. whole: what one end sends comes to the other. cut: its backend has left the service, so a client
is told at its next packet, and a UDP flow moves on. gone: its backend's container is. unsure: nothing is promised."""
UDP_KEPT, TCP_KEPT = 25.0, 600.0
"""The seconds without a packet after which every plane still knows a flow (idle.udp-late-answer, idle.slow-server)."""
RESET_KEPT = 10.0
"""The seconds for which planes know a connection that was reset (net/netfilter/nf_conntrack_proto_tcp.c, tcp_timeouts;
net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_timeouts). A connection from the same port is taken for the same one."""


class Flow(Struct):
    """A TCP connection, or what one UDP socket sends."""

    udp: bool
    client: str
    to: str
    connected: bool = False  # it is a connected UDP socket
    backend: str = ""  # the backend that it has reached; "" if none
    asked: bool = False  # its backend has answered this very socket, and not only one with the same port before
    used: float = 0.0  # when something was sent last, in seconds since the sequence began
    closed: frozenset[str] = frozenset()  # the ends that have closed their half
    over: bool = False
    reset: bool = False  # it ended by a reset
    vanished: bool = False  # it ended with its client's container, of which nobody was told
    # The client closed first, this time or before, so its end waits. From the same port it goes on far ahead in the
    # sequence numbers (net/ipv4/tcp_ipv4.c, tcp_twsk_unique). The next time a backend may take its SYN for an old one.
    waits: bool = False
    fate: Fate = "whole"
    loses: int = 0  # datagrams that it may lose before it goes on with another backend
    orphaned: bool = False  # its service was removed, and its VIP with it
    stays: bool = False  # it may stay with its backend, although that gets no new flows

    @property
    def direct(self) -> bool:
        """Whether it goes to a backend's own address, and to no VIP."""
        return self.to in BACKENDS

    @property
    def who(self) -> tuple[str, str]:
        """The client and the transport, by which turns are told apart."""
        return self.client, "udp" if self.udp else "tcp"
