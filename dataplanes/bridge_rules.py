"""The rules of a bridge that translates frames itself, without connection tracking. They know no kernel.

A connection has an element in `tcp-requests`, by which the client's packets are found, and one in `tcp-replies` for
the backend's; so have the flows of UDP and SCTP. The key is what a packet carries: destination, source, and their
ports. The value is the MAC of the receiver and the key of the other direction: its beginning is what the packet's
source and destination become. Elements have time-outs, which packets renew. A frame meets these chains:

    frames      at bridge prerouting: a packet to a VIP in @owned, or to one of @clients; all others go on. A datagram
                among them may be to a backend's own address, from the port of a flow: its answer is no reply of that
    to-vip      the client's plain segment of a connection in @tcp-requests, which it renews: the client acknowledges
                all that the backend sends. Then flags -> @turns -> a segment's chain. What is not TCP goes to `others`
    late        the client's plain segment of a connection in @tcp-closing
    opening     the client's SYN: of a connection in @tcp-requests, or the beginning of one
    finishing, resetting  the client's FIN or RST, which moves the connection from @tcp-requests to @tcp-closing
    to-client   the backend's plain segment; then flags -> @answers -> `opened`, `finished`, `aborted`: the same for its
                other segments. `foreign` are those of connections that are no VIP's
    itself      the segment of a backend that was sent to itself, and replies to the VIP
    others      `datagrams` of UDP, `chunks` of SCTP, `errors` of ICMP, and what is `fragmented`
    errors      an error is translated together with the packet that it quotes, which leads to its connection
    fragmented  a fragment without ports goes where the first one went, which is in @fragments. TCP segments that come
                in fragments are not served; Linux sends none
    balance     ip daddr -> @services -> chain `rr-N-C`, which puts the slot into the packet's mark
    enter       ip daddr . mark -> @backends -> mark -> @macs: `picked` enters the connection and translates the packet

What is still addressed to a VIP belongs to no connection. The bridge gets it, and the namespace refuses it
(bridge_ruleset.py). A backend that reaches itself is sent the VIP as the source, because it would not accept a packet
from its own address. So it replies to the VIP.

These rules have the kernel's form (kernel/nft_expressions.py), because nft's language has none for a value of several
fields. Each rule starts without values, so what a rule has loaded, the next one loads again.

The time-outs are those of connection tracking (net/netfilter/nf_conntrack_proto_{tcp,udp,sctp}.c). Its states are
here as follows. SYN_SENT and SYN_RECV: in @tcp-requests, until the client's next segment. ESTABLISHED: in the same map.
FIN_WAIT to TIME_WAIT, and CLOSE: in @tcp-closing. A flow of UDP is a stream as soon as it has a second packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from dataplanes.kernel.nft_expressions import (
    ACCEPT,
    GOTO,
    JUMP,
    LINK,
    MARK,
    NETWORK,
    PROTOCOL,
    TRANSPORT,
    VERDICT,
    constant,
    equal,
    forget,
    load,
    look_up,
    masked,
    meta,
    other,
    remember,
    same,
    set_meta,
    store,
    verdict,
)
from dataplanes.nft_rules import BACKENDS, HAIRPINS, SERVICES

OWNED, CLIENTS, FRAGMENTS, MACS = "owned", "clients", "fragments", "macs"
TURNS, ANSWERS = "turns", "answers"  # flags of a TCP segment to a VIP, and of one to a client -> its chain

_ICMP, _TCP, _UDP, _SCTP = 1, 6, 17, 132
_NAMES = {_TCP: "tcp", _UDP: "udp", _SCTP: "sctp"}


def requests(protocol: int) -> str:
    """Return the name of the map by which clients' packets are found."""
    return f"{_NAMES[protocol]}-requests"


def replies(protocol: int) -> str:
    """Return the name of the map by which backends' packets are found."""
    return f"{_NAMES[protocol]}-replies"


CLOSING = "tcp-closing"
FORTH = (*map(requests, _NAMES), CLOSING)
BACK = tuple(map(replies, _NAMES))
"""The maps of connections in the two directions."""

_ESTABLISHED, _FINISHED, _RESET = 432_000, 120, 10
_FIRST = {_TCP: 120, _UDP: 30, _SCTP: 30}
_THEN = {_TCP: _ESTABLISHED, _UDP: 120, _SCTP: 210}
_REASSEMBLY = 30  # net.ipv4.ipfrag_time
YEAR = 365 * 86_400

_Field = tuple[int, int, int]
# A field's base, offset and length.
_FRAGMENT, _ID, _PROTOCOL = (NETWORK, 6, 2), (NETWORK, 4, 2), (NETWORK, 9, 1)
_SOURCE, _DESTINATION, _CHECKSUM = (NETWORK, 12, 4), (NETWORK, 16, 4), 10
_SPORT, _DPORT, _FLAGS = (TRANSPORT, 0, 2), (TRANSPORT, 2, 2), (TRANSPORT, 12, 4)  # the flags and what is beside them
_TO_MAC, _FROM_MAC = (LINK, 0, 6), (LINK, 6, 6)
_QUOTED = 8  # the offset of the packet that an ICMP error quotes
_ERRORS = (3, 11, 12)  # ICMP: destination unreachable, time exceeded, parameter problem
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
TURN = _FIN | _SYN | _RST | _ACK
FLAG = 1 << 16
"""The unit of the flags. The kernel masks and looks up four bytes faster than one (nft_bitwise_fast_ops)."""
TO_VIP = (
    (_RST, _RST, "resetting"),
    (_FIN, _FIN, "finishing"),
    (_SYN | _ACK, _SYN, "opening"),
    (_SYN, _SYN, "itself-opened"),
    (0, 0, "late"),
)
TO_CLIENT = ((_RST, _RST, "aborted"), (_FIN, _FIN, "finished"), (_SYN, _SYN, "opened"), (0, 0, "foreign"))
_MORE, _OFFSET = 0x2000, 0x1FFF

# Registers, of four bytes each. The sender's MAC and the packet's key are the value of the other direction. The value
# that the key leads to is the receiver's MAC and the key of the other direction, which begins with the new addresses.
_CARRIED, _KEY, _VALUE, _OTHER = 0, 2, 6, 8


_Made = Iterator[tuple[str, list[bytes]]]
_accept = verdict(ACCEPT)


def _load(field: _Field, register: int) -> bytes:
    return load(*field, register)


def _loads(register: int, *fields: _Field) -> bytes:
    return b"".join(_load(field, register + n) for n, field in enumerate(fields))


def _key() -> bytes:
    """Load a packet's key."""
    return _loads(_KEY, _DESTINATION, _SOURCE, _DPORT, _SPORT)


def _direct() -> list[bytes]:
    """Forget the replies of a flow whose client sends to the backend's own address: what answers this is none."""
    return [_loads(_KEY, _SOURCE, _DESTINATION, _SPORT, _DPORT), _any(), forget(replies(_UDP), _KEY, _CARRIED)]


def _carried() -> bytes:
    """Load the sender's MAC in front of the key."""
    return _load(_FROM_MAC, _CARRIED)


def _any() -> bytes:
    """Put anything in front of the key, for a map that wants a value and does not take it.

    A constant is cheaper than the sender's MAC, because a load from a frame's header is slow (nft_payload_fast_ops).
    """
    return constant(bytes(6), _CARRIED)


def _found(name: str) -> bytes:
    """Look up the packet's value, and go on only if there is one."""
    return _key() + look_up(name, _KEY, _VALUE)


def _readdress() -> bytes:
    """Write the new addresses into the packet."""
    return store(NETWORK, 12, 8, _OTHER, checksum=_CHECKSUM, pseudo=True)


def _translate() -> bytes:
    """Write the new addresses into the frame and the packet."""
    return store(*_TO_MAC, _VALUE) + _readdress()


def _reload() -> bytes:
    """Load the receiver's MAC from the translated packet, which has the same bytes.

    nft aborts when it lists a rule that puts into a map what was looked up (nft 1.0.6, netlink_parse_concat_expr).
    """
    return _load(_TO_MAC, _VALUE)


def _renew(name: str, other: str, seconds: int, value: bytes) -> bytes:
    """Translate a packet that is known by its element in a map, and renew the elements of both directions.

    `value` is for an element of the other direction that expires in this very moment, so that it is made anew.
    """
    renewed = remember(name, _KEY, _CARRIED, seconds) + remember(other, _OTHER, _CARRIED, seconds)
    return _found(name) + value + renewed + _translate()


def _is(field: _Field, mask: int, value: int | None = None) -> bytes:
    """Go on only if a field has this value under a mask, or any but zero."""
    length = field[2]
    wanted = other(bytes(length)) if value is None else same(value.to_bytes(length, "big"))
    return _load(field, 0) + masked(mask.to_bytes(length, "big")) + wanted


def _segment(*flags: int) -> bytes:
    """Load these flags of a TCP segment."""
    return _protocol(_TCP) + _load(_FLAGS, 0) + masked((sum(flags) * FLAG).to_bytes(4, "big"))


def _plain() -> bytes:
    """Go on only if a TCP segment neither begins nor ends a connection."""
    return _segment(_FIN, _SYN, _RST) + same(bytes(4))


def _protocol(number: int) -> bytes:
    return equal(*_PROTOCOL[:2], bytes((number,)))


def rules() -> _Made:
    """Yield the rules that nft's language does not have, each with its chain, in their order."""
    yield from chain(_frames(), _segments(), _flows(), _enter(), _errors(), _fragments())


def _frames() -> _Made:
    """Most frames concern nobody here, so they go on after two short look-ups, and datagrams after a third one.

    No IPv6 packet is mistaken for one of IPv4: its source address would have to contain the key of a connection.
    """
    to_vip, to_client, turn = requests(_TCP), replies(_TCP), _segment(TURN)
    yield "frames", [_load(_DESTINATION, 0), look_up(OWNED, 0, VERDICT)]
    yield "frames", [_load(_DESTINATION, 0), look_up(CLIENTS, 0), verdict(GOTO, "to-client")]
    yield "frames", [_protocol(_UDP), *_direct()]
    yield "to-vip", [_plain(), _renew(to_vip, to_client, _ESTABLISHED, _any()), _accept]
    yield "to-vip", [turn, look_up(TURNS, 0, VERDICT)]
    yield "to-vip", [verdict(GOTO, "others")]
    yield "to-client", [_plain(), _found(to_client), _readdress(), _accept]  # the frame is addressed to it already
    yield "to-client", [turn, look_up(ANSWERS, 0, VERDICT)]
    yield "to-client", [verdict(GOTO, "others")]
    yield "foreign", [_accept]
    yield "others", [meta(PROTOCOL), other(b"\x08\x00"), _accept]
    yield "others", [_is(_FRAGMENT, _MORE | _OFFSET), verdict(GOTO, "fragmented")]
    yield "others", [verdict(GOTO, "whole")]
    for protocol, name in ((_UDP, "datagrams"), (_SCTP, "chunks"), (_ICMP, "errors")):
        yield "whole", [_protocol(protocol), verdict(GOTO, name)]


def _segments() -> _Made:
    to_vip, to_client = requests(_TCP), replies(_TCP)
    yield "late", [_renew(CLOSING, to_client, _FINISHED, _any()), _accept]
    yield "late", [verdict(GOTO, "itself")]
    yield "opening", [_found(to_vip), _translate(), _accept]
    yield "opening", [verdict(GOTO, "balance")]
    # The answer to a SYN. If the connection is over, it answers a new one to the backend's own address.
    living = [_found(to_client), look_up(to_vip, _OTHER, _OTHER + 2)]
    yield "opened", [*living, _readdress(), _accept]
    yield "opened", [_key(), _any(), forget(to_client, _KEY, _CARRIED)]
    yield "itself-opened", [*living, store(*_TO_MAC, _VALUE)]
    yield "itself-opened", [verdict(GOTO, "opened")]
    # So does a refusal, the only reset whose sequence number is 0 (RFC 9293, 3.10.7.1). A refused connection is over.
    over = [_found(to_client), look_up(CLOSING, _OTHER, _OTHER + 2)]
    yield "aborted", [equal(TRANSPORT, 4, bytes(4)), *over, _key(), _any(), forget(to_client, _KEY, _CARRIED), _accept]
    # Most connections are ended by both ends. The client acknowledges the second FIN, which renews the connection.
    yield "finished", [*over, _readdress(), _accept]
    for from_client, from_backend, seconds in (("finishing", "finished", _FINISHED), ("resetting", "aborted", _RESET)):
        known = [_found(to_vip), _translate(), _reload(), _any(), forget(to_vip, _KEY, _CARRIED)]
        moved = [remember(CLOSING, _KEY, _VALUE, seconds), remember(to_client, _OTHER, _CARRIED, seconds)]
        yield from_client, [*known, *moved, _accept]
        yield from_client, [_renew(CLOSING, to_client, seconds, _any()), _accept]
        yield from_client, [_found(to_client), store(*_TO_MAC, _VALUE)]
        yield from_client, [verdict(GOTO, from_backend)]
        known = [_found(to_client), _carried(), forget(to_vip, _OTHER, _CARRIED)]
        moved = [remember(CLOSING, _OTHER, _CARRIED, seconds), remember(to_client, _KEY, _CARRIED, seconds)]
        yield from_backend, [*known, *moved, _readdress(), _accept]
    yield "itself", [_found(to_client), _translate(), _accept]  # a backend that was sent to itself replies to the VIP


def _flows() -> _Made:
    for protocol, name in ((_UDP, "datagrams"), (_SCTP, "chunks")):
        to_vip, to_client = requests(protocol), replies(protocol)
        yield name, [_renew(to_vip, to_client, _THEN[protocol], _carried()), _accept]
        yield name, [_renew(to_client, to_vip, _THEN[protocol], _carried()), _accept]
        if protocol == _UDP:
            yield name, _direct()  # to a backend that is a client, too
        yield name, [verdict(GOTO, "balance")]


def _enter() -> _Made:
    yield "balance", [_load(_DESTINATION, 0), look_up(SERVICES, 0, VERDICT)]
    slot = [_load(_DESTINATION, 0), meta(MARK, 1), look_up(BACKENDS, 0, 0), set_meta(MARK, 0)]
    yield "enter", [*slot, verdict(GOTO, "picked")]
    for protocol, seconds in _FIRST.items():
        to_vip, to_client = requests(protocol), replies(protocol)
        for itself, station in ((False, True), (True, True), (False, False)):
            backend = [_protocol(protocol), _key(), _load(_SOURCE, _OTHER), meta(MARK, _OTHER + 1)]
            backend += [look_up(HAIRPINS, _OTHER, absent=not itself)]
            backend += [_load(_DESTINATION, _OTHER)] if itself else []
            # What another connection has left behind would keep its value. The map of replies is the fullest one.
            reply = [_carried(), _loads(_OTHER + 2, _SPORT, _DPORT), forget(to_client, _OTHER, _CARRIED)]
            reply += [forget(CLOSING, _KEY, _CARRIED)] if protocol == _TCP else []
            reply += [remember(to_client, _OTHER, _CARRIED, seconds), remember(CLIENTS, _KEY + 1, None, YEAR)]
            # What is sent to a backend whose container is gone is lost, and so are the repetitions.
            mac = look_up(MACS, _OTHER + 1, _VALUE) if station else constant(bytes(6), _VALUE)
            enter = [mac, store(*_TO_MAC, _VALUE), _reload(), remember(to_vip, _KEY, _VALUE, seconds)]
            leave = [_readdress(), _accept] if protocol == _TCP else [verdict(GOTO, "entered")]
            yield "picked", [*backend, *reply, *enter, *leave]
    yield "picked", [_accept]  # there is no room for the connection, so it is refused
    yield "entered", [_is(_FRAGMENT, _MORE), verdict(GOTO, "first")]
    for protocol in (_UDP, _SCTP):  # if another processor has just entered the flow, its choice holds
        yield "entered", [_protocol(protocol), _found(requests(protocol)), _translate(), _accept]


def _errors() -> _Made:
    for kind in _ERRORS:
        yield "errors", [equal(TRANSPORT, 0, bytes((kind,))), verdict(GOTO, "quoted")]
    fields = ((12, 4), (16, 4), (20, 2), (22, 2))  # of a header without options
    key = _loads(_KEY, *((TRANSPORT, _QUOTED + offset, length) for offset, length in fields))
    # The quoted header's checksum is changed along with the addresses that it covers, so the sum over both, and with it
    # the checksum of ICMP, stays what it was. Nobody verifies the quoted transport checksum.
    quoted = [
        store(TRANSPORT, _QUOTED + 12, 4, _OTHER + 1, checksum=_QUOTED + _CHECKSUM),
        store(TRANSPORT, _QUOTED + 16, 4, _OTHER, checksum=_QUOTED + _CHECKSUM),
    ]
    for protocol in _NAMES:
        about = equal(TRANSPORT, _QUOTED, b"\x45") + equal(TRANSPORT, _QUOTED + 9, bytes((protocol,)))
        for name in (replies(protocol), requests(protocol), *([CLOSING] if protocol == _TCP else [])):
            yield "quoted", [about, key, look_up(name, _KEY, _VALUE), *quoted, _translate(), _accept]


def _fragments() -> _Made:
    begin = _loads(_KEY, _DESTINATION, _SOURCE, _PROTOCOL, _ID)
    yield "fragmented", [_is(_FRAGMENT, _OFFSET, 0), verdict(JUMP, "first")]
    yield "fragmented", [_is(_FRAGMENT, _OFFSET, 0), verdict(GOTO, "whole")]
    yield "fragmented", [begin, look_up(FRAGMENTS, _KEY, _VALUE), _translate(), _accept]
    written = _reload() + load(NETWORK, 12, 8, _OTHER)
    note = [_loads(_KEY + 2, _PROTOCOL, _ID), written, remember(FRAGMENTS, _KEY, _VALUE, _REASSEMBLY)]
    for protocol in (_UDP, _SCTP):
        for name, back in ((requests(protocol), replies(protocol)), (replies(protocol), requests(protocol))):
            yield "first", [_protocol(protocol), _renew(name, back, _THEN[protocol], _carried()), *note, _accept]
