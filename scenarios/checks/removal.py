"""The removal of backends: of the last one, and of one after the other under a client that connects without pause."""

from __future__ import annotations

import errno
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Event

from dataplanes.kernel.interrupt import SIGNALS
from scenarios.checks import check
from scenarios.checks.backends import forget, shared
from scenarios.checks.world import CLIENT, TIMEOUT, Differs, World

_NODE = "worker2"
"""The node of the client."""


@check("change.last-backend", "D14, D16", changes=("apply",))
def last_backend(world: World) -> str:
    """When the last backend of a service is removed, nobody else gets its connections, and none is made to it.

    A connection that was established ends, hears nothing or goes on with that backend. A new one is made as soon as the
    service has a backend again.
    """
    with world.service("worker1") as probe:
        whole, (last,) = world.definition(probe.name), probe.tasks
        strangers = list(_strangers(world))
        made = world.connect(CLIENT, probe.vip)
        world.who(made)
        forget(world, probe.name, last)
        world.doing = "the established connection"
        old = _told(lambda: world.who(made).task)
        if old not in (*_NOBODY, last):
            raise Differs(f"the established connection to {last} was answered by {old}")
        new = _told(lambda: world.ask(CLIENT, probe.vip).task)
        if new not in _NOBODY:
            raise Differs(f"a new connection was answered by {new}, and the service has no backend")
        if select.select(strangers, [], [], 0)[0]:
            raise Differs("a server of the node itself has got a connection to the service without a backend")
        world.apply([whole])
        again = world.ask(CLIENT, probe.vip).task
        return f"the established connection: {old}; a new one: {new}; with a backend again: {again}"


_NOBODY = ("reset", "refused", "unreachable", "silence")


def _strangers(world: World) -> Iterator[socket.socket]:
    """Have a server listen in each namespace of the client's node itself, but where the balancer's own program does."""
    kinds = ("host", "overlay", "lb")
    for name in [name for kind, node, name in world.namespaces() if kind in kinds and node == _NODE]:
        try:
            yield world.listen_in(name, world.served)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def _told(ask: Callable[[], str]) -> str:
    """Ask, and return who answered, or what came instead of an answer."""
    try:
        return ask()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except ConnectionError:
        return "reset"
    except OSError:
        return "unreachable"


@check("change.rolling-removal", "D16, D19, moby/moby#30321")
def rolling_removal(world: World) -> str:
    """A client that connects without pause loses no connection while backends are drained and removed one by one.

    One connection is excepted each time: that which is on its way to a backend while that backend is drained.
    """
    with world.service("worker1", "worker2", "manager1") as probe:
        left, calls, cut = list(probe.tasks), 0, 0
        for gone in probe.tasks[:-1]:
            world.doing = f"connections while {gone} is drained"
            seen = _while_calling(world, probe.vip, partial(world.drain, gone))
            cut += _served(seen, left, spared=1)
            left.remove(gone)
            shared(world, left, lambda: world.ask(CLIENT, probe.vip).task)
            world.doing = f"connections while {gone}, which is drained, is removed"
            more = _while_calling(world, probe.vip, partial(world.remove_task, gone))
            _served(more, left, spared=0)
            shared(world, left, lambda: world.ask(CLIENT, probe.vip).task)
            calls += len(seen) + len(more)
        return f"{calls} connections during 4 changes, {cut} cut; the last ones to {left[0]}"


_MOST = 200
"""Connections during one change. A change takes milliseconds, and a connection a part of one."""
_BEFORE = 3
"""Connections that are made before the change begins."""


def _while_calling(world: World, vip: str, change: Callable[[], None]) -> list[str]:
    """Make a change, and connections without pause all the while. Return what came of each.

    The client is a thread, which enters no namespace: its sockets are there before. Signals are not for it.
    """
    from concurrent.futures import ThreadPoolExecutor

    handles = [world.handle(CLIENT, socket.SOCK_STREAM) for _ in range(_MOST)]
    under_way, done = Event(), Event()

    def call() -> list[bytes | str]:
        seen: list[bytes | str] = []
        for handle in handles:
            with handle:
                try:
                    world.open(handle, vip).sendall(b"w")
                    seen.append(handle.recv(256) or "closed")
                except (OSError, Differs) as error:
                    seen.append(f"{error}")
            if len(seen) >= _BEFORE:
                under_way.set()
            if done.is_set():
                break
        return seen

    block = partial(signal.pthread_sigmask, signal.SIG_BLOCK, SIGNALS)
    with ThreadPoolExecutor(1, initializer=block) as pool:
        calls = pool.submit(call)
        try:
            under_way.wait(_BEFORE * TIMEOUT)
            change()
        finally:
            done.set()
        found = calls.result()
    return [each if isinstance(each, str) else world.seen(CLIENT, each).task for each in found]


def _served(seen: Sequence[str], backends: Sequence[str], spared: int) -> int:
    """Demand that these backends answered all connections but so many. Return how many they did not answer."""
    lost = [f"connection {number} of {len(seen)}: {each}" for number, each in enumerate(seen) if each not in backends]
    if len(lost) > spared:
        raise Differs(f"not answered by {', '.join(backends)}: {'; '.join(lost[:3])}")
    return len(lost)
