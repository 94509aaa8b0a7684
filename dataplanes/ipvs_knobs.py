"""The knobs of IPVS, and their values in the versions of Docker."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

_Switch = Annotated[int, Meta(ge=0, le=1)]
_ReuseMode = Annotated[int, Meta(ge=0, le=3)]  # a bit field (Documentation/networking/ipvs-sysctl.rst)


class IpvsKnobs(Struct, frozen=True):
    """The changes between Docker 1.12.0 and 18.03, and the IPVS settings that users fought with.

    None: the kernel's default.

    References: moby/libnetwork#1877 for lo, #1566 for icmp, #2112 for weight 0, and moby/moby#40374 for mute, which
    Docker does not have.
    """

    snat: Annotated[bool, Meta(description="1.12.0 had none, so a task could not reach other tasks of its service")] = (
        True
    )
    vip_on: Annotated[
        Literal["eth0", "lo"], Meta(description="the interface on which a task has its VIP: lo since 17.09")
    ] = "eth0"
    icmp: Annotated[bool, Meta(description="the container itself answers a ping to a VIP: 1.13 to 18.03")] = False
    mute: Annotated[bool, Meta(description="a segment that conntrack calls INVALID ends no connection")] = False
    weight0: Annotated[bool, Meta(description="a backend is drained before it is removed: since 18.06")] = False
    conntrack: Annotated[_Switch | None, Meta(description="net.ipv4.vs.conntrack; none: 1 where SNAT is used")] = None
    conn_reuse_mode: Annotated[_ReuseMode | None, Meta(description="net.ipv4.vs.conn_reuse_mode")] = None
    expire_nodest_conn: Annotated[_Switch | None, Meta(description="net.ipv4.vs.expire_nodest_conn")] = None
    expire_quiescent_template: Annotated[_Switch | None, Meta(description="net.ipv4.vs.expire_quiescent_template")] = (
        None
    )


TWEAKS = {"conn_reuse_mode": 0, "expire_nodest_conn": 1, "expire_quiescent_template": 1}
"""The three sysctls that Docker came to set in its load-balancer namespace (moby/libnetwork#2154, #2491)."""

TWEAKED = replace(IpvsKnobs(), **TWEAKS)
MODERN = replace(TWEAKED, weight0=True, mute=True)

DOCKER: dict[str, IpvsKnobs] = {
    "1.12.0": IpvsKnobs(snat=False),
    "1.12.6": IpvsKnobs(),
    "1.12.6-tweaked": TWEAKED,
    "1.13": IpvsKnobs(icmp=True),
    "17.09": IpvsKnobs(icmp=True, vip_on="lo"),
    "18.03": IpvsKnobs(icmp=True, vip_on="lo"),
    "modern": MODERN,
}
