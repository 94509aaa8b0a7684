"""The catalog: every data plane, one row each. `name@variant+knob=value` selects a variant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct, convert
from msgspec.structs import asdict

from dataplanes import knobs
from dataplanes.base import Attachments, DataPlane, Mechanism, Placement
from dataplanes.direct import Direct
from dataplanes.ebpf import Ebpf, EbpfKnobs
from dataplanes.errors import Usage
from dataplanes.ipvs import DOCKER, MODERN, IpvsMechanism
from dataplanes.nft import Nft, NftKnobs
from dataplanes.placed import PlacedPlane
from dataplanes.placements import (
    ContainerPlacement,
    HostPlacement,
    LbPlacement,
    OverlayPlacement,
    SocketPlacement,
    TcPlacement,
)
from dataplanes.requirements import Feature, Requirement
from dataplanes.vips import LocalRoutes


class Row(Struct, frozen=True):
    """A data plane of the catalog: its summary, a function that makes one from knobs, and the named sets of knobs."""

    name: str
    summary: str
    make: Callable[[Any], tuple[Placement, Mechanism]]
    variants: dict[str, Struct]
    default: str = ""


class Selection(Struct, frozen=True):
    """A row with its knobs chosen: what `--dataplane` names, and what a result records."""

    name: str  # the name as the user wrote it, which is the key of every result
    dataplane: str
    variant: str
    knobs: dict[str, object]


_NFT: dict[str, Struct] = {"": NftKnobs(), "random": NftKnobs("random")}

_ROWS = (
    Row(
        "ipvs-container",
        "IPVS in every container, as in Docker 1.12 to 18.03 (the article)",
        lambda knobs: (ContainerPlacement(vip_on=knobs.vip_on), IpvsMechanism(knobs)),
        dict(DOCKER),
        "1.12.6-tweaked",
    ),
    Row(
        "ipvs-lb",
        "IPVS in one load-balancer namespace per network and node, SNATed: swarm since 18.06",
        lambda knobs: (LbPlacement(), IpvsMechanism(knobs)),
        {"": MODERN},
    ),
    Row(
        "ipvs-lb-dsr",
        "IPVS as in ipvs-lb with direct routing: backends answer the client themselves (--opt dsr)",
        lambda knobs: (LbPlacement(dsr=True), IpvsMechanism(knobs)),
        {"": MODERN},
    ),
    Row(
        "ipvs-overlay",
        "IPVS in the overlay namespace, the VIP on br0, bridge netfilter on: the article's question",
        lambda knobs: (OverlayPlacement(), IpvsMechanism(knobs)),
        {"": MODERN},
    ),
    Row(
        "ipvs-host",
        "IPVS in the node's host namespace, the VIPs on a dummy device, SNATed",
        lambda knobs: (HostPlacement(dummy=True), IpvsMechanism(knobs)),
        {"": MODERN},
    ),
    Row(
        "nft-container",
        "nftables DNAT maps in every container",
        lambda knobs: (ContainerPlacement(), Nft(knobs)),
        _NFT,
    ),
    Row(
        "nft-lb",
        "nftables in one load-balancer namespace per network and node, SNATed",
        lambda knobs: (LbPlacement(LocalRoutes()), Nft(knobs)),
        _NFT,
    ),
    Row(
        "nft-overlay",
        "nftables in the overlay namespace, the VIP on br0, bridge netfilter on",
        lambda knobs: (OverlayPlacement(LocalRoutes(), conntrack=True), Nft(knobs)),
        _NFT,
    ),
    Row(
        "nft-host",
        "nftables in the node's host namespace, the VIPs on its attachment to the overlay, SNATed",
        lambda knobs: (HostPlacement(LocalRoutes()), Nft(knobs)),
        _NFT,
    ),
    Row(
        "ebpf-socket",
        "eBPF in the container's own connect() and sendmsg(), on its cgroup: no packet carries the VIP",
        lambda knobs: (SocketPlacement(), Ebpf("socket", knobs)),
        {"": EbpfKnobs()},
    ),
    Row(
        "ebpf-tc",
        "eBPF on the node's end of each container's veth, its own connection table; the container is untouched",
        lambda knobs: (TcPlacement(), Ebpf("tc", knobs)),
        {"": EbpfKnobs()},
    ),
)
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}
DIRECT = "direct"
SUMMARIES: dict[str, str] = {
    DIRECT: "no load balancer: the client calls the backends' own addresses in turn; every figure is compared with it",
    **{row.name: row.summary for row in _ROWS},
}


def select(text: str) -> list[Selection]:
    """Parse a `--dataplane` value: comma-separated planes, or `all`. Raises Usage, which names the nearest plane."""
    names = list(SUMMARIES) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise Usage("no data plane named", fix=f"one or more of: {', '.join(SUMMARIES)}, or all")
    return [_select(name) for name in dict.fromkeys(names)]


def _select(text: str) -> Selection:
    name, settings = re.fullmatch(r"([^@+]*)[@+]?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if name not in SUMMARIES:
        near = difflib.get_close_matches(name, SUMMARIES, 1)
        hint = f"did you mean {near[0]}?" if near else "`bench list dataplanes` shows them"
        raise Usage(f"unknown data plane {name!r}", fix=hint)
    if name == DIRECT:
        if settings:
            raise Usage(f"{DIRECT} has no variants", where=text)
        return Selection(text, DIRECT, "", {})
    row = ROWS[name]
    variant, *changes = settings.split("+") if settings else [row.default]
    if "=" in variant:
        variant, changes = row.default, [variant, *changes]
    if variant not in row.variants:
        named = ", ".join(filter(None, row.variants)) or "none"
        raise Usage(f"{name} has no variant {variant!r}", fix=f"it has: {named}; a knob is KNOB=VALUE")
    return Selection(text, name, variant, asdict(knobs.change(text, row.variants[variant], changes)))


def default(name: str) -> Struct | None:
    """Return the default knobs of a data plane, or None for `direct`."""
    return ROWS[name].variants[ROWS[name].default] if name in ROWS else None


def make(selection: Selection, attachments: Attachments) -> DataPlane:
    """The selected data plane, which has programmed nothing yet. It may ask for `attachments` to networks."""
    if selection.dataplane == DIRECT:
        return Direct(attachments, selection.name)
    row = ROWS[selection.dataplane]
    placement, mechanism = row.make(convert(selection.knobs, type(row.variants[row.default])))
    return PlacedPlane(selection.name, placement, mechanism, attachments)


def placement(name: str) -> str:
    """Return the placement of a data plane, named with or without a variant; "" for `direct`."""
    selection = _select(name)
    if selection.dataplane == DIRECT:
        return ""
    row = ROWS[selection.dataplane]
    return row.make(row.variants[row.default])[0].name


def requires(selection: Selection) -> tuple[Requirement, ...]:
    """Return what the selected data plane needs of the kernel and the machine."""
    if selection.dataplane == DIRECT:
        return ()
    row = ROWS[selection.dataplane]
    placement, mechanism = row.make(row.variants[row.default])
    return tuple(dict.fromkeys((*placement.requires(), *mechanism.requires())))


def needs_cgroups(selection: Selection) -> bool:
    """Return True if the data plane needs a cgroup for each container."""
    return any(isinstance(need, Feature) and need.config == "CGROUP_BPF" for need in requires(selection))
