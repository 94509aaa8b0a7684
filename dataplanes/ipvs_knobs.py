"""The knobs of IPVS, and their named settings at each placement.

Three knobs say how IPVS is programmed. They mean the same at every placement, so places can be compared like with like:

    choose   how a packet's service is found     rule: an iptables rule for each service marks its packets
                                                 map:  one nft rule marks them, by a map from VIP to mark
                                                 port: a virtual service for each declared port, and no mark
    back     how the backend's answer gets back  iptables, nft: connection tracking changes the source address
                                                 stateless: nft changes it, and connection tracking stays off
                                                 none: nothing changes it
    own      how the VIP is the namespace's own  address, or a route of type local

What `back` must do depends on the placement: in a container it gives a task that has its VIP as an address its own
source address, at lb and host it turns every client into the balancer, in the overlay namespace it concerns only a
backend that reaches itself. Where the container owns the VIP by a route, the route names the source, and `none` loses
nothing.

The variants `iptables`, `map` and `port` are there at every placement, with otherwise equal knobs. `iptables` is how
Docker programs IPVS. `map` and `port` are the cheapest ways with any port and with declared ports. The default is
`map`, because it loses nothing that `iptables` has; in the container it is what Docker shipped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

_Switch = Annotated[int, Meta(ge=0, le=1)]
_ReuseMode = Annotated[int, Meta(ge=0, le=3)]  # a bit field (Documentation/networking/ipvs-sysctl.rst)
_BACK = "who changes the source address so that answers come back: connection tracking, set up by iptables or nft; "


class IpvsKnobs(Struct, frozen=True):
    """How IPVS is programmed, the changes between Docker 1.12.0 and 18.06, and the settings that users fought with.

    None: the kernel's default.

    References: moby/libnetwork#2112 for weight 0, and moby/moby#40374 for mute, which Docker does not have.
    """

    choose: Annotated[
        Literal["rule", "map", "port"],
        Meta(description="how a service is found: a mark rule for each, a map of marks, a service for each port"),
    ] = "rule"
    back: Annotated[Literal["iptables", "nft", "stateless", "none"], Meta(description=f"{_BACK}or nobody")] = "iptables"
    own: Annotated[
        Literal["address", "route"],
        Meta(description="how a namespace owns the VIP: as an address, or by a local route"),
    ] = "address"
    scheduler: Annotated[
        Literal["rr", "wrr"], Meta(description="backends in turn whatever their weights, or as often as they weigh")
    ] = "rr"
    mute: Annotated[bool, Meta(description="a segment that conntrack calls INVALID ends no connection")] = False
    weight0: Annotated[bool, Meta(description="a backend is drained before it is removed: since 18.06")] = False
    conntrack: Annotated[_Switch | None, Meta(description="net.ipv4.vs.conntrack; none: 1 where SNAT is used")] = None
    conn_reuse_mode: Annotated[_ReuseMode | None, Meta(description="net.ipv4.vs.conn_reuse_mode")] = None
    expire_nodest_conn: Annotated[_Switch | None, Meta(description="net.ipv4.vs.expire_nodest_conn")] = None
    expire_quiescent_template: Annotated[_Switch | None, Meta(description="net.ipv4.vs.expire_quiescent_template")] = (
        None
    )
    snat_reroute: Annotated[_Switch | None, Meta(description="net.ipv4.vs.snat_reroute")] = None
    run_estimation: Annotated[
        _Switch | None, Meta(description="net.ipv4.vs.run_estimation: 0 stops the counters, which take time")
    ] = None


class ContainerKnobs(IpvsKnobs, frozen=True):
    """In a container, `back` concerns a task that has its VIP as an address, and so as its source address.

    1.12.0 had none: a task could not reach other tasks of its service.

    References: moby/libnetwork#1877 for lo, #1566 for icmp.
    """

    back: Annotated[Literal["iptables", "nft", "none"], Meta(description=f"{_BACK}1.12.0 had none")] = "iptables"
    vip_on: Annotated[
        Literal["eth0", "lo"], Meta(description="the interface on which a task has its VIP: lo since 17.09")
    ] = "eth0"
    icmp: Annotated[bool, Meta(description="the container itself answers a ping to a VIP: 1.13 to 18.03")] = False


class SnatKnobs(IpvsKnobs, frozen=True):
    """At lb and host every connection gets the balancer's address, which only connection tracking can take back."""

    back: Annotated[Literal["iptables", "nft"], Meta(description=f"{_BACK}every answer passes the balancer")] = (
        "iptables"
    )


class DirectKnobs(IpvsKnobs, frozen=True):
    """With direct routing the backend answers the client itself."""

    back: Annotated[Literal["none"], Meta(description="with direct routing, answers do not pass the balancer")] = "none"


_TWEAKS: dict[str, Any] = {"conn_reuse_mode": 0, "expire_nodest_conn": 1, "expire_quiescent_template": 1}
"""The three sysctls that Docker came to set in its load-balancer namespace (moby/libnetwork#2154, #2491)."""
_MODERN: dict[str, Any] = {**_TWEAKS, "weight0": True, "mute": True}

DOCKER: dict[str, Struct] = {
    "1.12.0": ContainerKnobs(back="none"),
    "1.12.6": ContainerKnobs(),
    "1.12.6-tweaked": ContainerKnobs(**_TWEAKS),
    "1.13": ContainerKnobs(icmp=True),
    "17.09": ContainerKnobs(icmp=True, vip_on="lo"),
    "18.03": ContainerKnobs(icmp=True, vip_on="lo"),
}
"""What Docker programmed in every container, by its version."""


def programmings(published: IpvsKnobs, back: str) -> dict[str, Struct]:
    """Return the variants `iptables`, `map` and `port` of a placement.

    `back` is the cheapest way back at the placement that loses nothing, with a VIP owned by a route. IPVS looks for an
    answer's route again once the answer has the VIP as its source (net/netfilter/ipvs/ip_vs_core.c,
    ip_vs_route_me_harder). Here no route depends on the source, and in the overlay namespace answers are bridged.
    """
    cheapest = replace(published, back=back, own="route", snat_reroute=0)
    return {
        "iptables": published,
        "map": replace(cheapest, choose="map"),
        "port": replace(cheapest, choose="port"),
    }


CONTAINER = DOCKER | programmings(ContainerKnobs(**_MODERN), "none")
OVERLAY = programmings(IpvsKnobs(**_MODERN), "stateless")
SNATED = programmings(SnatKnobs(**_MODERN), "nft")
DIRECT = programmings(DirectKnobs(**_MODERN), "none")
