"""Connections to each of several backends, of planes that choose in turn and of planes that choose at random."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from scenarios.checks.world import CLIENT, Differs, Probe, World, same, shares

PATIENCE = 60
"""Connections in which every backend is met.

Of a plane that chooses at random, one of three backends is missing among 60 connections once in 10^10 times.
"""


def reached(wanted: Sequence[str], ask: Callable[[], str]) -> list[str]:
    """Ask until each of the wanted answers has come, and at least twice for each. Return all answers."""
    seen: list[str] = []
    while len(seen) < 2 * len(wanted) or (len(seen) < PATIENCE and not set(wanted) <= set(seen)):
        seen.append(ask())
    return seen


def shared(world: World, wanted: Sequence[str], ask: Callable[[], str], each: int = 2) -> str:
    """Ask, and demand that only the wanted answers come, and all of them.

    Of a plane that chooses in turn, each must come equally often: `each` times.
    """
    if world.in_turn:
        seen = [ask() for _ in range(each * len(wanted))]
        return same("connections", shares(seen), dict.fromkeys(wanted, each))
    return same("reached", sorted(set(reached(wanted, ask))), sorted(wanted))


def one_each(world: World, probe: Probe) -> dict[str, socket.socket]:
    """Return a connection to each backend of a service of the check."""
    made: dict[str, socket.socket] = {}
    for _ in range(PATIENCE):
        connection = world.connect(CLIENT, probe.vip)
        made.setdefault(world.who(connection).task, connection)
        if set(made) == set(probe.tasks):
            return made
    raise Differs(f"{PATIENCE} connections reached only {', '.join(sorted(made))}")


def forget(world: World, service: str, *tasks: str) -> None:
    """Apply a service without some of its backends. The containers of those run on."""
    known, gone = world.definition(service), [world.address(task) for task in tasks]
    world.apply([replace(known, backends=tuple(each for each in known.backends if each.address not in gone))])
