"""Long lists of planes in few words: by mechanism, by place, or as all but some."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dataplanes import catalog
from dataplanes.texts import code

_FEWEST = 3  # planes that a group must have to be named instead of them
_MOST_LEFT_OUT = 3
_MECHANISMS = {"ipvs": "IPVS", "nft": "nftables", "iptables": "iptables", "ebpf": "eBPF"}
_PLACES = {"host": "at the host", "lb": "in a load-balancer namespace"}


def families(planes: Sequence[str]) -> dict[str, list[str]]:
    """Return the groups of planes that have a name, such as `every IPVS plane`."""
    found: dict[str, list[str]] = {}
    for plane in planes:
        kind = next(each for each in _MECHANISMS if each in plane)
        found.setdefault(f"every {_MECHANISMS[kind]} plane", []).append(plane)
        if where := _PLACES.get(catalog.placement(plane)):
            found.setdefault(f"every plane {where}", []).append(plane)
    return {name: group for name, group in found.items() if len(group) >= _FEWEST}


def told(names: Collection[str], every: Collection[str]) -> str:
    """Return planes in words. `names` are some of `every`, which have all variants: `plane@variant`."""
    here, all_of_them = _by_plane(names), _by_plane(every)
    whole = [plane for plane, variants in here.items() if variants == all_of_them[plane]]
    parts = _whole(whole, list(all_of_them))
    without: dict[str, list[str]] = {}
    for plane, variants in here.items():
        if plane in whole:
            continue
        others = [each for each in all_of_them[plane] if each not in variants]
        if "" in variants or len(others) < len(variants):
            without.setdefault(_listed(others), []).append(plane)
        else:
            parts += [code(f"{plane}@{each}") for each in variants]
    partly = [f"{_listed(planes)} but for {_variants(others)}" for others, planes in without.items()]
    return "; ".join([*([", ".join(parts)] if parts else []), *partly])


def _variants(listed: str) -> str:
    return f"the variant{'s' if ',' in listed else ''} {listed}"


def _by_plane(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        plane, _, variant = name.partition("@")
        found.setdefault(plane, []).append(variant)
    return found


def _whole(planes: Sequence[str], every: Sequence[str]) -> list[str]:
    """Return planes that are meant in all their variants: in groups, the largest first, and the others by name."""
    left_out = [plane for plane in every if plane not in planes]
    if planes and len(left_out) <= _MOST_LEFT_OUT:
        return ["every plane" + (f" but {_listed(left_out)}" if left_out else "")]
    parts, rest = [], list(planes)
    for name, group in sorted(families(every).items(), key=lambda family: -len(family[1])):
        if set(group) <= set(planes) and len(set(group) & set(rest)) >= _FEWEST:
            parts.append(name)
            rest = [plane for plane in rest if plane not in group]
    return parts + list(map(code, rest))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(code, names))
