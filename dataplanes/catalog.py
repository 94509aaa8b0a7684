"""The catalog: the recipe of every data plane. `name@variant+knob=value` selects a variant."""

from __future__ import annotations

import difflib
from typing import get_args

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from dataplanes import extensions, ipvs_knobs, knobs, peers, plane_file, platforms
from dataplanes.base import Attachments, Belongings, DataPlane, Mechanism, Placement
from dataplanes.direct import Direct
from dataplanes.ebpf import Ebpf, EbpfKnobs, RedirectKnobs, ShortKnobs
from dataplanes.errors import Usage
from dataplanes.extensions import Extension
from dataplanes.ipvs import IpvsMechanism
from dataplanes.ipvs_knobs import IpvsKnobs
from dataplanes.kube import KubeIptables, KubeNft
from dataplanes.kube_ipvs import KubeIpvs
from dataplanes.kube_knobs import KubeKnobs, KubeNftKnobs
from dataplanes.moby_nft import MobyKnobs, MobyNft
from dataplanes.model import Protocol
from dataplanes.nft import Nft, NftKnobs
from dataplanes.nft_bridge import NftBridge, NftBridgeKnobs
from dataplanes.placed import PlacedPlane
from dataplanes.placements import (
    BridgePlacement,
    ContainerPlacement,
    Device,
    HostPlacement,
    LbPlacement,
    OverlayPlacement,
    SocketPlacement,
    TcPlacement,
)
from dataplanes.plane_file import PlaneProgram
from dataplanes.recipe import Part, Recipe, wrong
from dataplanes.requirements import Requirement
from dataplanes.selection import DIRECT, REFERENCE, SHORT, Selection, parsed, split
from dataplanes.vips import Addresses, ForwardedRoutes, LocalRoutes, Vips


def _owned(knobs: IpvsKnobs) -> Vips:
    return LocalRoutes() if knobs.own == "route" else Addresses()


def _on_dummy(knobs: IpvsKnobs) -> Device | None:
    return Device("vip0", "dummy") if knobs.own == "address" else None


_NOWHERE = Device("vip0", "bridge")  # without ports; not every kernel has dummy devices
_NFT: dict[str, Struct] = {"": NftKnobs(), "random": NftKnobs("random")}

_RECIPES = (
    Recipe(
        SHORT,
        "no load balancer, past the bridge: the shortest path, the limit that figures are held against",
        lambda knobs: (Part(TcPlacement), Part(Ebpf, "short", knobs)),
        {"": ShortKnobs()},
    ),
    Recipe(
        "ipvs-container",
        "IPVS in every container, as in Docker 1.12 to 18.03 (the article)",
        lambda knobs: (
            Part(ContainerPlacement, vip_on=knobs.vip_on, route=knobs.own == "route"),
            Part(IpvsMechanism, knobs),
        ),
        ipvs_knobs.CONTAINER,
        "1.12.6-tweaked",
    ),
    Recipe(
        "ipvs-lb",
        "IPVS in one load-balancer namespace per network and node, SNATed: swarm since 18.06",
        lambda knobs: (Part(LbPlacement, _owned(knobs)), Part(IpvsMechanism, knobs)),
        ipvs_knobs.SNATED,
        "map",
    ),
    Recipe(
        "ipvs-lb-dsr",
        "IPVS as in ipvs-lb with direct routing: backends answer the client themselves (--opt dsr)",
        lambda knobs: (Part(LbPlacement, _owned(knobs), dsr=True), Part(IpvsMechanism, knobs)),
        ipvs_knobs.DIRECT,
        "map",
    ),
    Recipe(
        "ipvs-overlay",
        "IPVS in the overlay namespace, the VIP on br0, bridge netfilter on: the article's question",
        lambda knobs: (Part(OverlayPlacement, _owned(knobs)), Part(IpvsMechanism, knobs)),
        ipvs_knobs.OVERLAY,
        "map",
    ),
    Recipe(
        "ipvs-host",
        "IPVS in the node's host namespace, SNATed; the variant iptables has the VIPs on a dummy device",
        lambda knobs: (Part(HostPlacement, _owned(knobs), device=_on_dummy(knobs)), Part(IpvsMechanism, knobs)),
        ipvs_knobs.SNATED,
        "map",
    ),
    Recipe(
        "nft-container",
        "nftables DNAT maps in every container",
        lambda knobs: (Part(ContainerPlacement), Part(Nft, knobs)),
        _NFT,
    ),
    Recipe(
        "nft-lb",
        "nftables in one load-balancer namespace per network and node, SNATed",
        lambda knobs: (Part(LbPlacement, LocalRoutes()), Part(Nft, knobs)),
        _NFT,
    ),
    Recipe(
        "nft-overlay",
        "nftables in the overlay namespace, the VIP on br0, bridge netfilter on",
        lambda knobs: (Part(OverlayPlacement, LocalRoutes(), conntrack=True), Part(Nft, knobs)),
        _NFT,
    ),
    Recipe(
        "nft-bridge",
        "nftables in the bridge of the overlay namespace, with a connection table of its own, bridge netfilter off",
        lambda knobs: (Part(BridgePlacement, LocalRoutes()), Part(NftBridge, knobs)),
        {"": NftBridgeKnobs(), "random": NftBridgeKnobs("random")},
    ),
    Recipe(
        "nft-host",
        "nftables in the node's host namespace, the VIPs on its attachment to the overlay, SNATed",
        lambda knobs: (Part(HostPlacement, LocalRoutes()), Part(Nft, knobs)),
        _NFT,
    ),
    Recipe(
        "moby-nftables",
        "nftables in the load-balancer namespace in the layout that is proposed for swarm (moby/moby#53125)",
        lambda knobs: (Part(LbPlacement), Part(MobyNft)),
        {"": MobyKnobs()},
    ),
    Recipe(
        "kube-iptables",
        "iptables in the node's host namespace in the layout of kube-proxy's iptables mode, declared ports only",
        lambda knobs: (
            Part(HostPlacement, ForwardedRoutes(), device=_NOWHERE, firewall=False),
            Part(KubeIptables, knobs),
        ),
        {"": KubeKnobs(), "liberal": KubeKnobs(liberal=True)},
    ),
    Recipe(
        "kube-ipvs",
        "IPVS in the node's host namespace in the layout of kube-proxy's IPVS mode, declared ports only",
        lambda knobs: (
            Part(HostPlacement, device=Device("kube-ipvs0", "dummy"), firewall=False),
            Part(KubeIpvs, knobs),
        ),
        {"": KubeKnobs(), "liberal": KubeKnobs(liberal=True)},
    ),
    Recipe(
        "kube-nftables",
        "nftables in the node's host namespace in the layout of kube-proxy's nftables mode, declared ports only",
        lambda knobs: (Part(HostPlacement, ForwardedRoutes(), device=_NOWHERE), Part(KubeNft, knobs)),
        {
            "released": KubeNftKnobs(),
            "1.36": KubeNftKnobs(layout="maps"),
            "one-map": KubeNftKnobs(layout="one-map"),
            "liberal": KubeNftKnobs(liberal=True),
        },
        "released",
    ),
    Recipe(
        "ebpf-socket",
        "eBPF in the container's own connect() and sendmsg(), on its cgroup: no packet carries the VIP",
        lambda knobs: (Part(SocketPlacement), Part(Ebpf, "socket", knobs)),
        {"": EbpfKnobs()},
    ),
    Recipe(
        "ebpf-tc",
        "eBPF on the node's end of each container's veth, its own connection table; the container is untouched",
        lambda knobs: (Part(TcPlacement), Part(Ebpf, "tc", knobs)),
        {"": EbpfKnobs()},
    ),
    Recipe(
        "ebpf-redirect",
        "eBPF as in ebpf-tc, past the bridge: straight into a local backend's namespace, or out of the vxlan device",
        lambda knobs: (Part(TcPlacement), Part(Ebpf, "redirect", knobs)),
        {"": RedirectKnobs()},
    ),
)
BUILT_IN: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
_TAKEN = ("all", "peers", DIRECT, *BUILT_IN, *peers.NAMES, *peers.PLATFORMS)
_DIRECT = "no load balancer: the client calls the backends' own addresses in turn; the reference of every figure"


def names() -> list[str]:
    """Return the names of all data planes: the direct path, our own, those of other packages. Peers are none of them.

    Raises Prerequisite if a package has a plane by a name that is taken.
    """
    return [DIRECT, *BUILT_IN, *_extensions()]


def _extensions() -> dict[str, Extension]:
    return extensions.planes(taken=_TAKEN)


def recipe(plane: str) -> Recipe:
    """Return the recipe of a plane other than the direct path.

    Raises Usage, which names the nearest plane, and Prerequisite if another package has the plane and cannot be used.
    """
    if plane in BUILT_IN:
        return BUILT_IN[plane]
    if plane not in _extensions():
        raise Usage(f"unknown data plane {plane!r}", fix=_nearest(plane))
    found = _extensions()[plane]
    made = found.load()
    if why := wrong(made, plane):
        raise found.refused(why)
    assert isinstance(made, Recipe)
    return made


def _nearest(plane: str) -> str:
    near = difflib.get_close_matches(plane, [*names(), *peers.NAMES, *peers.PLATFORMS], 1)
    return f"did you mean {near[0]}?" if near else "`bench list dataplanes` shows them"


def package(plane: str) -> str:
    """Return the package that a plane comes from and its version, or "" for one of our own."""
    found = {} if plane in BUILT_IN else _extensions()
    return found[plane].package if plane in found else ""


def summary(plane: str) -> str:
    """Return what a plane is, in a line. Raises Usage for an unknown plane."""
    return _DIRECT if plane == DIRECT else recipe(plane).summary


def default(plane: str) -> Struct | None:
    """Return the default knobs of a data plane, or None for the direct path. Raises Usage for an unknown plane."""
    if plane == DIRECT:
        return None
    found = recipe(plane)
    return found.variants[found.default]


def placement(plane: str) -> str:
    """Return the name of a plane's placement, "" for the direct path. Raises Usage for an unknown plane."""
    chosen = default(plane)
    return "" if chosen is None else recipe(plane).parts(chosen)[0].kind.name


def mechanism(selection: Selection) -> str:
    """Return the name of a selected plane's mechanism, "" for the direct path and for a platform, which has its own."""
    return "" if _is_whole(selection) else _parts(selection)[1].make().name


def select(text: str) -> list[Selection]:
    """Parse a `--dataplane` value: comma-separated planes, plane files and platforms, `peers`, or `all`.

    `peers` are all that are programs, and `all` is every plane of ours. Raises Usage with the nearest one, or the line.
    """
    known = names()
    chosen = known if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    chosen = [name for each in chosen for name in (peers.NAMES if each == "peers" else (each,))]
    if not chosen:
        raise Usage("no data plane named", fix=f"one or more of: {', '.join((*known, *peers.NAMES))}, peers or all")
    return _distinct([_select(name) for name in dict.fromkeys(chosen)])


def _distinct(selections: list[Selection]) -> list[Selection]:
    """Refuse plane files that have one name. Every figure and cell is found by it."""
    found: dict[str, Selection] = {}
    for each in selections:
        if each.program and found.setdefault(each.name, each) is not each:
            other = found[each.name].program
            fix = f"change `name` in one of them; the other is {other.file or other.argv[0] if other else ''}"
            raise Usage(f"two data planes are called {each.name}", where=each.program.file, fix=fix)
    return selections


def _select(text: str) -> Selection:
    if plane_file.is_named_by(text):
        return _select_program(text)
    plane, settings = split(text)
    if text in peers.NAMES or plane in peers.PLATFORMS:
        return peer(text)
    if plane == DIRECT:
        if split(settings)[0] in peers.PLATFORMS:
            return platforms.direct(peer(settings))
        if settings:
            raise Usage(f"{DIRECT} has no variants", where=text)
        return msgspec.structs.replace(REFERENCE, name=text)
    found = recipe(plane)
    variant, changes = parsed(settings, found.default)
    if variant not in found.variants:
        named = ", ".join(filter(None, found.variants)) or "none"
        raise Usage(f"{plane} has no variant {variant!r}", fix=f"it has: {named}; a knob is KNOB=VALUE")
    changed = knobs.change(text, found.variants[variant], changes)
    return Selection(text, plane, variant, asdict(changed), placement(plane), package(plane))


def _select_program(text: str) -> Selection:
    found = plane_file.parse(text)
    if is_taken(found.name) and peers.file(found.name) != found.file:
        raise Usage(f"there is a data plane {found.name} already", where=text, fix="give yours another name")
    return _of_program(found)


def peer(name: str) -> Selection:
    """Return a peer, selected: a program, or a platform in a version."""
    if name not in peers.NAMES:
        return platforms.select(name, *split(name))
    return _of_program(plane_file.parse(peers.file(name)))


def imitated(selection: Selection) -> Selection | None:
    """Return the plane of the catalog that a plane file's plane, or a platform, is held against, or None."""
    other = selection.program or platforms.of(selection)
    return _select(other.imitates) if other and other.imitates else None


def _of_program(found: PlaneProgram) -> Selection:
    """Return a selected program. Raises Usage, with the line, if it imitates what is no plane of the catalog."""
    plane = split(found.imitates)[0]
    if plane and plane not in names():
        raise plane_file.fault(found, "imitates", f"there is no data plane {plane!r}", _nearest(plane))
    made = Selection(found.name, found.name, placement=found.placement, program=found)
    imitated(made)  # raises Usage for a variant that it has not
    return made


def is_taken(name: str) -> bool:
    """Return True if no plane of the user's can have this name."""
    return name in (*_TAKEN, *names())


def variants(plane: str) -> list[Selection]:
    """Return a plane in each of its variants. Raises Usage for an unknown plane, or the one that has none."""
    if plane == DIRECT:
        raise Usage(f"{DIRECT} has no variants", where=plane)
    return [
        Selection(f"{plane}@{name}" if name else plane, plane, name, asdict(settings), placement(plane), package(plane))
        for name, settings in recipe(plane).variants.items()
    ]


def _is_whole(selection: Selection) -> bool:
    """Return True for the direct path and for a platform, which do not consist of a placement and a mechanism."""
    return selection.dataplane == DIRECT or platforms.of(selection) is not None


def _parts(selection: Selection) -> tuple[Part[Placement], Part[Mechanism]]:
    """Return the parts of a plane other than the direct path, for the knobs that were chosen."""
    if selection.program:
        from dataplanes import program  # a guest that measures no program need not pay for its modules

        return program.parts(selection.program)
    found = recipe(selection.dataplane)
    return found.parts(msgspec.convert(selection.knobs, type(found.variants[found.default])))


def make(selection: Selection, attachments: Attachments, belongings: Belongings) -> DataPlane:
    """Make the selected data plane. It has programmed nothing yet, and may ask for `attachments` to networks.

    What it makes outside the namespaces is among the `belongings` of the run.
    """
    if selection.dataplane == DIRECT:
        return Direct(attachments, selection.name)
    placement, mechanism = _parts(selection)
    made = mechanism.make()
    made.settle_in(belongings)
    return PlacedPlane(selection.name, placement.make(), made, attachments)


def requires(selection: Selection) -> tuple[Requirement, ...]:
    """Return what the selected data plane needs of the kernel and the machine with its knobs."""
    parts = () if _is_whole(selection) else _parts(selection)
    return platforms.requires(selection) or tuple(dict.fromkeys(need for part in parts for need in part.requires()))


def needs_cgroups(selection: Selection) -> bool:
    """Return True if the data plane needs a cgroup for each container."""
    return not _is_whole(selection) and _parts(selection)[0].kind.cgroups


def any_port(selection: Selection) -> bool:
    """Return True if the data plane serves every port of a VIP, and not only the ports that a service declares."""
    return _is_whole(selection) or _parts(selection)[1].make().any_port


def protocols(selection: Selection) -> tuple[Protocol, ...]:
    """Return the transports that the data plane serves."""
    return get_args(Protocol) if _is_whole(selection) else _parts(selection)[1].make().protocols


def in_turn(selection: Selection) -> bool:
    """Return True if the data plane chooses backends in turn, and not at random."""
    if platform := platforms.of(selection):
        return platform.in_turn
    return selection.dataplane == DIRECT or _parts(selection)[1].make().in_turn
