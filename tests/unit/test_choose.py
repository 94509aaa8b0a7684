"""Which kernel is chosen, and the reason that is told."""

from __future__ import annotations

import os

import msgspec
import pytest

from bench.kernels import Kernel
from bench.outside.choose import choose
from dataplanes import catalog
from dataplanes.errors import Prerequisite
from tests.recorded import Replay, read, replay

NFT, IPVS = (catalog.select(name) for name in ("nft-lb", "ipvs-lb"))


@pytest.fixture
def host(machine: dict[str, Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is as most machines are that build this project: no IPVS. We are root."""
    facts = read("run").kernel
    config = {name: value for name, value in facts.config.items() if "IP_VS" not in name}
    here = msgspec.structs.replace(facts, name="host", release="6.18", config=config, clock="wall")
    machine["host"] = Replay(msgspec.structs.replace(read("run"), kernel=here))
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_auto_is_the_host_where_every_plane_can_run(host: None) -> None:
    kernel, reason = choose("auto", None, NFT)
    assert (kernel.name, reason) == ("host", "every plane of the run can run here")


def test_auto_is_a_guest_where_one_plane_cannot(host: None) -> None:
    kernel, reason = choose("auto", None, [*NFT, *IPVS])
    assert kernel.name == "debian-6.12"
    assert reason.startswith("not the host: host (6.18) is built without CONFIG_IP_VS")
    assert reason.endswith("more)")


def test_auto_is_a_guest_for_who_is_not_root(host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    kernel, reason = choose("auto", "wall", NFT)
    assert (kernel.name, reason) == ("debian-6.12", "not the host: not root")


def test_only_a_guest_has_an_instruction_clock(host: None) -> None:
    kernel, reason = choose("auto", "instructions", NFT)
    assert (kernel.name, reason) == ("debian-6.12", "only a guest has an instruction clock")


def test_the_host_is_refused_where_a_plane_cannot_run(host: None) -> None:
    assert choose("host", None, NFT)[1] == "asked for"
    with pytest.raises(Prerequisite, match=r"cannot run on the host's kernel: .*CONFIG_IP_VS.* \(use --kernel guest\)"):
        choose("host", None, IPVS)


@pytest.mark.parametrize(
    ("name", "clock", "measuring", "given"),
    [
        ("guest", None, True, None),  # the kernel's own default
        ("guest", None, False, "wall"),
        ("auto", None, False, "wall"),
        ("guest", "instructions", False, "instructions"),
        ("host", None, False, None),
    ],
)
def test_where_nothing_is_measured_the_clock_is_the_walls(
    host: None,
    machine: dict[str, Kernel],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    clock: str | None,
    measuring: bool,
    given: str | None,
) -> None:
    asked = []

    def resolve(name: str, clock: str | None) -> Kernel:
        asked.append((name, clock))
        return machine["host"] if name == "host" else replay()

    monkeypatch.setattr("bench.kernels.resolve", resolve)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if name == "host" else 1000)
    choose(name, clock, NFT, measuring=measuring)
    assert asked[-1] == ("host" if name == "host" else "guest", given)
