"""The traces of a plane: in the container, between nodes, and in the node's own namespaces."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time

from dataplanes.errors import NotApplicable
from dataplanes.kernel import iptables, netns, process, sysctl
from scenarios.checks import check
from scenarios.checks.world import CLIENT, LOCAL, VISITOR, Differs, World

_ETH_P_ALL, _ETH_P_ARP = 3, 0x0806
_OUTER = 14 + 20 + 8  # the Ethernet, IP and UDP headers around a frame between nodes, without options
_GENEVE_PORT = (6081).to_bytes(2, "big")


def _own(world: World, command: str) -> list[str]:
    return process.run(world.netns("lone.1"), command.split(), accept=range(256)).splitlines()


@check("visible.addresses", "D39, moby/moby#33770")
def addresses(world: World) -> str:
    """The application's namespace has no address but the container's own."""
    vips = {each.vip for each in world.services()}
    foreign = [line.split()[1] + " " + line.split()[3] for line in _own(world, "ip -o -4 address")]
    foreign = [each for each in foreign if each.split()[1].partition("/")[0] in vips]
    if foreign:
        raise Differs(f"it also has {', '.join(foreign)}")
    return "its own addresses only"


@check("visible.rules", "D39")
def rules(world: World) -> str:
    """The application's namespace has no packet filter rule of the plane."""
    tables = iptables.Tables(world.netns("lone.1"))
    there = tables.names()  # to list another one would create it
    tables.close()
    found = [
        line
        for table in ("nat", "mangle")
        if table in there
        for line in _own(world, f"iptables-legacy-save -t {table}")
        if line.startswith("-A") and ("ipvs" in line or "MARK" in line)
    ]
    found += [line.strip() for line in _own(world, "nft list tables") if "vip-" in line]
    if found:
        raise Differs(f"{len(found)} of them: {found[0]}")
    return "none"


@check("visible.proc", "D39")
def proc(world: World) -> str:
    """/proc/net/ip_vs in the container lists no service."""
    with netns.inside(world.netns("lone.1")):
        try:
            with open("/proc/thread-self/net/ip_vs", encoding="ascii") as file:
                services = [line for line in file if line.startswith(("FWM", "TCP", "UDP", "SCTP"))]
        except FileNotFoundError:
            return "there is no such file"
    if services:
        raise Differs(f"it lists {len(services)} services")
    return "it lists none"


@check("visible.flush", "D40")
def flush(world: World) -> str:
    """An application that flushes its own packet filter still reaches services."""
    with world.service("worker2") as probe:
        (name,) = world.alterable([world.netns(probe.tasks[0])])
        for table in ("mangle", "nat", "filter"):
            process.run(name, ("iptables-legacy", "-t", table, "-F"), accept=range(256))
        process.run(name, ("nft", "flush", "ruleset"), accept=range(256))
        world.doing = "a connection after the flush"
        try:
            seen = world.ask(probe.tasks[0], world.vip("lone")).task
        except OSError as error:
            raise Differs(f"after iptables -F and nft flush ruleset: {error}") from error
        finally:
            world.mend()
        return f"answered by {seen}"


@check("visible.host-service", "derived matrix 7, kubernetes/kubernetes#72236")
def host_service(world: World) -> str:
    """A server in a node's host or overlay namespace is not reached through a VIP."""
    port, kinds = world.port(), ("host", "overlay", "lb")
    servers = [
        world.listen_in(name, port) for kind, node, name in world.namespaces() if kind in kinds and node == "worker2"
    ]
    if not servers:
        raise NotApplicable("no namespace of worker2 itself is known")
    try:
        made = world.connect(CLIENT, world.vip("lone"), port)
    except ConnectionRefusedError:
        return f"{len(servers)} servers on worker2; the backend refused the port"
    except OSError as error:
        if error.errno != errno.EHOSTUNREACH:
            raise
        return f"{len(servers)} servers on worker2; nobody has the port, which is not declared"
    raise Differs(f"connected to {made.getpeername()[0]}:{port}, where only the node listens")


_CLIENTS = (CLIENT, VISITOR, LOCAL)  # one on each node
_ANSWERED = 1.0
"""Seconds in which every station answers an ARP request. Other requests may come all the time."""


@check("visible.arp", "D35")
def arp(world: World) -> str:
    """An ARP request for a VIP is answered at most once, whichever node it comes from."""
    found = {client: _answers(world, client, world.vip("lone")) for client in _CLIENTS}
    for client, stations in found.items():
        if len(stations) > 1:
            raise Differs(f"{client} was answered by {', '.join(stations)}")
    return f"answers: {', '.join(f'{len(stations)} to {client}' for client, stations in found.items())}"


@check("visible.arp-nobody", "RFC 5227, 2.1")
def arp_nobody(world: World) -> str:
    """An ARP request for an address that nobody has is not answered."""
    address = world.spare(6)
    for client in _CLIENTS:
        if stations := _answers(world, client, address):
            raise Differs(f"{client} asked for {address}, and was answered by {', '.join(stations)}")
    return f"nobody answered {len(_CLIENTS)} containers that asked for {address}"


def _answers(world: World, client: str, address: str) -> list[str]:
    """Ask by ARP for an address. Return the MACs of those who answer."""
    with world.handle(client, socket.SOCK_RAW, protocol=socket.htons(_ETH_P_ARP), family=socket.AF_PACKET) as raw:
        raw.bind((world.interface(client), _ETH_P_ARP))
        own = raw.getsockname()[4]
        asked, source = socket.inet_aton(address), socket.inet_aton(world.address(client))
        request = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own, source, bytes(6), asked)
        raw.send(b"\xff" * 6 + own + struct.pack(">H", _ETH_P_ARP) + request)
        answers = set()
        end = time.monotonic() + _ANSWERED
        while (left := end - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
            frame = raw.recv(128)
            if frame[20:22] == b"\0\2" and frame[28:32] == asked:
                answers.add(frame[22:28].hex(":"))
    return sorted(answers)


@check("visible.wire", "swarm: never a VIP between nodes", protocols=("tcp", "udp"))
def wire(world: World) -> str:
    """No packet between nodes carries a VIP."""
    taps = []
    for node, name in world.hosts().items():
        with netns.inside(name):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        tap.bind((world.uplink(node), _ETH_P_ALL))
        tap.setblocking(False)
        taps.append((node, tap))
    vips = {socket.inet_aton(each.vip): each.name for each in world.services()}
    try:
        for client in (CLIENT, "visitor.1", "lone.1"):
            world.ask(client, world.vip("lone"))
            world.heard(client, world.vip("my-web"))
        carried = 0
        for node, tap in taps:
            while frame := _frame(tap):
                inner = _carried(frame)
                if inner[12:14] != b"\x08\x00":
                    continue
                carried += 1
                if found := {inner[26:30], inner[30:34]} & vips.keys():
                    raise Differs(f"a packet with the VIP of {vips[found.pop()]} on {node}'s {world.uplink(node)}")
    finally:
        for _, tap in taps:
            tap.close()
    if not carried:
        raise Differs("no packet between nodes was seen at all")
    return f"none of {carried}"


def _carried(frame: bytes) -> bytes:
    """Return the frame that one between nodes carries: after eight bytes of vxlan, or of geneve with its options.

    Geneve tells the length of its options in words (RFC 8926, 3.4).
    """
    options = (
        (int.from_bytes(frame[_OUTER : _OUTER + 1], "big") & 0x3F) * 4
        if frame[_OUTER - 6 : _OUTER - 4] == _GENEVE_PORT
        else 0
    )
    return frame[_OUTER + 8 + options :]


def _frame(tap: socket.socket) -> bytes:
    try:
        return tap.recv(2048)
    except BlockingIOError:
        return b""


@check("visible.sysctl", "moby/moby#38723")
def settings(world: World) -> str:
    """The plane changes no network setting of the application's namespace."""
    with world.service("worker2") as probe:
        name = world.netns(probe.tasks[0])
        keys = ("conntrack", "conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template")
        defaults = {
            "conntrack": "0",
            "conn_reuse_mode": "1",
            "expire_nodest_conn": "0",
            "expire_quiescent_template": "0",
        }
        changed = [
            f"net.ipv4.vs.{key}={value}"
            for key in keys
            if (value := sysctl.value(name, f"net.ipv4.vs.{key}")) not in (None, defaults[key])
        ]
        own = f"net.ipv4.conf.{world.interface(probe.tasks[0])}"
        changed += [
            f"{own}.{key}={value}"
            for key in ("arp_ignore", "arp_announce")
            if (value := sysctl.value(name, f"{own}.{key}")) != "0"
        ]
    if changed:
        raise Differs(", ".join(changed))
    return "none"
