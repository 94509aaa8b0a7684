"""Errors that a vxlan device makes about frames too long for the underlay, and how they are routed correctly.

vxlan turns a frame that does not fit into the ICMP error about it, and receives that error as if it had come from
outside (drivers/net/vxlan/vxlan_core.c, vxlan_xmit_one; net/ipv4/ip_tunnel_core.c, iptunnel_pmtud_build_icmp). It is
the same skb, and it keeps the frame's connection tracking entry, so the kernel does not look up the connection that the
error is about. NAT takes the error for a packet to the VIP and sends it to the backend, with a port written into its
header. The sender never learns the path MTU, and the connection hangs (moby/moby#36689, docker/for-linux#594).

A classifier on the device hands such a packet to the bridge's own interface, and this makes the kernel drop the entry
(net/core/skbuff.c, skb_scrub_packet). From there the error is routed to its receiver and translated as any other error.
The classifier recognises the device's own errors because they are addressed to the host: packets from other nodes are
never addressed to the device.
"""

from __future__ import annotations

import errno
import os
import struct

from dataplanes.kernel import bpf
from dataplanes.kernel.rtnl import Rtnl
from dataplanes.requirements import Feature, Requirement

REQUIRES: tuple[Requirement, ...] = (
    Feature("BPF_SYSCALL", "", "correct routing of the vxlan's errors about the path MTU"),
    Feature("NET_SCH_INGRESS", "sch_ingress", "the hook for classifiers of an interface"),
    Feature("NET_CLS_BPF", "cls_bpf", "programs at this hook"),
)
_SCHED_CLS = 3  # BPF_PROG_TYPE_SCHED_CLS
_PACKET_TYPE, _PROTOCOL = 4, 16  # offsets in struct __sk_buff
_HOST, _IPV4 = 0, struct.unpack("=H", b"\x08\x00")[0]  # PACKET_HOST, ETH_P_IP in network order
_NETWORK = -0x100000  # SKF_NET_OFF: an offset from the network header
_ICMP, _FRAGMENTATION_NEEDED = 1, 0x0304
_STORE_BYTES, _REDIRECT = 9, 23  # BPF_FUNC_*
_INGRESS, _PASS = 1, -1  # BPF_F_INGRESS, TC_ACT_UNSPEC


def look(netns: str, bridge: str) -> None:
    """Attach the classifier to the bridge's vxlan devices.

    Repeated, it attaches the classifier again where it was lost.
    """
    with Rtnl(netns) as rtnl:
        mac = bytes.fromhex(rtnl.mac(bridge).replace(":", ""))
        program = bpf.load("anew", _SCHED_CLS, 0, _program(rtnl.index(bridge), mac))
        try:
            for device in _devices(rtnl, bridge):
                rtnl.send([rtnl.ingress_add(device)], ignore=(errno.EEXIST,))
                rtnl.send([rtnl.classifier_set(device, "ingress", program, "anew")])
        finally:
            os.close(program)


def stop(netns: str, bridge: str) -> None:
    """Undo `look`."""
    with Rtnl(netns) as rtnl:
        rtnl.send((rtnl.ingress_del(device) for device in _devices(rtnl, bridge)), ignore=(errno.EINVAL, errno.ENOENT))


def _devices(rtnl: Rtnl, bridge: str) -> list[str]:
    return rtnl.ports(rtnl.index(bridge), "vxlan")


def _program(bridge: int, mac: bytes) -> bytes:
    """Return the classifier.

    It passes every packet except such an error, which it gives to the bridge with the bridge's MAC.
    """
    words = struct.unpack("=IH", mac)
    take = [
        *(_store(size, -8 + 4 * n, word) for n, (size, word) in enumerate(zip((0x62, 0x6A), words, strict=True))),
        _code(0xBF, 1, 6),  # r1 = skb
        _code(0xB7, 2, value=0),  # r2 = offset
        _code(0xBF, 3, 10),  # r3 = frame
        _code(0x07, 3, value=-8),  # r3 -= 8
        _code(0xB7, 4, value=6),  # r4 = length
        _code(0xB7, 5, value=0),  # r5 = flags
        _code(0x85, value=_STORE_BYTES),
        _code(0xB7, 1, value=bridge),
        _code(0xB7, 2, value=_INGRESS),
        _code(0x85, value=_REDIRECT),
        _code(0x95),  # exit
    ]
    let = [_code(0xB7, 0, value=_PASS), _code(0x95)]
    tests = (
        ([_code(0x61, 0, 1, _PACKET_TYPE)], _HOST),
        ([_code(0x61, 0, 1, _PROTOCOL)], _IPV4),
        ([_code(0x30, value=_NETWORK + 9)], _ICMP),
        ([_code(0x28, value=_NETWORK + 20)], _FRAGMENTATION_NEEDED),
    )
    made = [_code(0xBF, 6, 1)]  # r6 = skb, where loads from packets expect it
    for number, (load, wanted) in enumerate(tests):
        beyond = 2 * (len(tests) - number - 1) + len(take)
        made += [*load, _code(0x55, 0, 0, beyond, wanted)]  # if r0 != wanted: pass
    return b"".join((*made, *take, *let))


def _store(size: int, offset: int, value: int) -> bytes:
    """Return the instruction that stores a constant on the stack frame."""
    return _code(size, 10, 0, offset, value - (1 << 32) if value >> 31 else value)


def _code(operation: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """Return one struct bpf_insn (include/uapi/linux/bpf.h)."""
    return struct.pack("=BBhi", operation, source << 4 | target, offset, value)
