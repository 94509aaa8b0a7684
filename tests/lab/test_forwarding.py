"""The rule in a node's own firewall, in a namespace with a chain at the forward hook."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dataplanes.forwarding import Firewall
from dataplanes.kernel import netns, process

pytestmark = pytest.mark.planes("nft-lb")

NAME = f"hforward-{os.getpid()}"


def nft(*argv: str) -> list[str]:
    return process.run(NAME, ("nft", *argv)).splitlines()


@pytest.fixture
def firewall() -> Iterator[Firewall]:
    netns.create(NAME)
    try:
        nft(
            "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }"
        )
        nft("add rule inet filter forward ct state established accept")
        made = Firewall(NAME, "ov0")
        yield made
        made.close()
    finally:
        netns.delete(NAME)


def ours() -> list[str]:
    """Return the accepting rules with their handles."""
    listed = nft("-a", "list", "chain", "inet", "filter", "forward")
    return [line.strip() for line in listed if '"ov0"' in line]


@pytest.mark.parametrize(
    "damage",
    [
        "replace rule inet filter forward handle {handle} counter drop",  # as many rules as before
        "delete rule inet filter forward handle {handle}; add rule inet filter forward counter drop",
        "flush chain inet filter forward",
    ],
)
def test_what_others_do_to_the_rule_is_noticed_and_restored(firewall: Firewall, damage: str) -> None:
    firewall.allow()
    assert firewall.intact()
    (rule,) = ours()
    nft(damage.format(handle=rule.split()[-1]))
    assert not firewall.intact()
    firewall.allow()
    assert firewall.intact()
    assert [line.partition(" # ")[0] for line in ours()] == [rule.partition(" # ")[0]]
    firewall.disallow()
    assert ours() == []
