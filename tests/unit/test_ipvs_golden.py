"""What a site is told in its life, byte for byte: settings, rules, rulesets, and requests to IPVS.

`BENCH_REGOLD=1 pytest ...` writes the golden files anew: read the diff then.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataplanes import catalog, filters, vips
from dataplanes.base import Hook, Reply, Site
from dataplanes.ipvs import IpvsMechanism
from dataplanes.kernel import iptables, ipvs, netns, process, sysctl
from dataplanes.kernel.netlink import Request, attribute
from dataplanes.model import Backend, Port, Service

GOLDEN = Path(__file__).parent / "golden" / "ipvs"
SITES: dict[str, tuple[Hook, Reply, str, str]] = {
    "ipvs-container": ("output", "own-source", "eth0", "10.0.0.7"),
    "ipvs-lb": ("input", "snat", "eth0", "10.0.0.9"),
    "ipvs-lb-dsr": ("input", "direct", "eth0", "10.0.0.9"),
    "ipvs-overlay": ("bridge", "hairpin-snat", "br0", "10.0.0.1"),
    "ipvs-host": ("input", "snat", "ov1", "10.0.0.9"),
}
A, B, C, D = (f"10.0.0.{number}" for number in (3, 4, 5, 8))
_FAMILY = 0x20


Lines = list[str]


class Wire:
    """A netlink socket that answers which family IPVS has."""

    told: Lines

    def __init__(self, name: str, protocol: int) -> None: ...

    def close(self) -> None: ...

    def dump(self, kind: int, body: bytes, flags: int = 0) -> list[tuple[int, bytes]]:
        return [(kind, bytes(4) + attribute(1, _FAMILY.to_bytes(2, "little")))]

    def send(self, requests: Iterable[Request], *, ignore: tuple[int, ...] = ()) -> None:
        self.told.extend(f"netlink {each.kind:#x} {each.flags:#x} {each.body.hex()}" for each in requests)


class Ruleset:
    """nftables."""

    told: Lines

    def __init__(self, name: str) -> None: ...

    def close(self) -> None: ...

    def generation(self) -> int:
        return 0

    def run(self, text: str) -> None:
        self.told.extend(("nft -f -", *text.splitlines()))

    def insert(self, table: str, chain: str, expressions: Sequence[bytes]) -> None:
        self.told.append(f"nft insert rule ip {table} {chain} {b''.join(expressions).hex()}")


class Routes:
    """The routes of a namespace."""

    told: Lines

    def __init__(self, name: str) -> None: ...

    def __enter__(self) -> Routes:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def local_add(self, interface: str, address: str, source: str) -> str:
        return f"ip route add local {address} dev {interface}"

    def local_del(self, interface: str, address: str) -> str:
        return f"ip route del local {address} dev {interface}"

    def send(self, requests: Iterable[str], *, ignore: tuple[int, ...] = ()) -> None:
        self.told.extend(requests)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What the kernel is told, as text; nothing is done."""
    lines: Lines = []

    def run(name: str, command: Sequence[str], text: str = "", **_: Any) -> str:
        lines.extend((" ".join(command), *text.splitlines()))
        return ""

    def change(name: str, values: Mapping[str, str]) -> dict[str, str]:
        lines.extend(f"sysctl {key}={value}" for key, value in values.items())
        return dict.fromkeys(values, "0")

    for kind in (Wire, Ruleset, Routes):
        monkeypatch.setattr(kind, "told", lines, raising=False)
    monkeypatch.setattr(netns, "inside", _nowhere)
    monkeypatch.setattr(ipvs, "Netlink", Wire)
    monkeypatch.setattr(filters, "Nftables", Ruleset)
    monkeypatch.setattr(vips, "Rtnl", Routes)
    monkeypatch.setattr(ipvs.Ipvs, "count", lambda self: 0)
    monkeypatch.setattr(iptables.Tables, "info", lambda self, table: b"")
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(sysctl, "change", change)
    return lines


@contextmanager
def _nowhere(name: str) -> Iterator[None]:
    yield


def site(plane: str) -> Site:
    hook, reply, interface, address = SITES[plane]
    return Site("ns", "overlay1", "worker1", "10.0.0.0/24", hook, reply, interface, address)


def life(plane: str, lines: Lines) -> str:
    """The life of a site: services come, backends change, services go, the site is closed."""
    (selection,) = catalog.select(plane)
    knobs = msgspec.convert(selection.knobs, type(catalog.default(selection.dataplane)))
    mechanism = catalog.recipe(selection.dataplane).parts(knobs)[1].make()
    assert isinstance(mechanism, IpvsMechanism)
    ports = () if mechanism.any_port else (Port("tcp", 80), Port("udp", 53))
    web = Service("web", "overlay1", "10.0.0.2", (Backend(A), Backend(B), Backend(C)), ports)
    lone = Service("lone", "overlay1", "10.0.0.6", (Backend(D),), ports)
    drained = Service("web", "overlay1", "10.0.0.2", (Backend(A), Backend(B, 0), Backend(D)), ports)
    moved = Service("lone", "overlay1", "10.0.0.16", (Backend(D),), ports)
    director = mechanism.open(site(selection.dataplane))
    steps: dict[str, Callable[[], None]] = {
        "services come": lambda: director.apply([web, lone]),
        "backends change": lambda: director.apply([drained]),
        "a VIP changes": lambda: director.apply([moved]),
        "a service goes": lambda: director.remove([drained]),
        "the end": director.close,
    }
    found = ["# the site opens", *lines]
    for name, step in steps.items():
        lines.clear()
        step()
        found += [f"# {name}", *lines]
    return "\n".join(found) + "\n"


def golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("BENCH_REGOLD"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("plane", SITES)
def test_the_published_programming_is_what_it_was(plane: str, told: Lines) -> None:
    """The golden files were written by the code that the published figures are of."""
    golden(plane, life(plane if plane == "ipvs-container" else f"{plane}@iptables", told))


@pytest.mark.parametrize("variant", ["map", "port"])
@pytest.mark.parametrize("plane", SITES)
def test_each_programming_at_each_placement(plane: str, variant: str, told: Lines) -> None:
    golden(f"{plane}@{variant}", life(f"{plane}@{variant}", told))


def test_the_scheduler_that_was_chosen_is_told(told: Lines) -> None:
    text = life("ipvs-lb+scheduler=wrr", told)
    assert b"\0wrr\0".hex() in text
    assert b"\0rr\0".hex() not in text


@pytest.mark.parametrize("settings", ["choose=rule+own=route", "choose=map+back=iptables", "back=nft", "back=none"])
def test_the_knobs_are_free_to_be_combined(settings: str, told: Lines) -> None:
    """What comes is gone again, whatever the combination."""
    text = life(f"ipvs-overlay+{settings}", told)
    added = Counter(line.removeprefix("-A ") for line in text.splitlines() if line.startswith("-A "))
    assert added == Counter(line.removeprefix("-D ") for line in text.splitlines() if line.startswith("-D "))
    assert ("create table" in text) == ("delete table" in text)
