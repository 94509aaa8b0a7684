"""The command `bench matrix --world FILE`: the checks on containers that exist already, on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bench import kernels
from bench.documents import Event, Job, Matrix, MatrixCell
from bench.outside import provenance
from bench.outside.dispatch import dispatch
from dataplanes import catalog
from dataplanes.errors import Prerequisite, Usage
from dataplanes.kernel import netns
from dataplanes.selection import Selection
from scenarios import world_file
from scenarios.adopted import Adoption
from scenarios.checks import Check
from scenarios.homes import EnginePlace, Home, find, own_inode, path_of, place
from scenarios.roles import Roles, give_roles
from scenarios.world_file import WorldFile

Fault = Callable[[str, str], Usage]
_HOST = "host"


def find_world(path: str) -> Adoption:
    """Return the world that a file describes, with every namespace found.

    Raises Usage with line and field, and Prerequisite if containers cannot be entered by this user. Nothing is done in
    any of them.
    """
    found, fault = world_file.load(path)
    if found.name in catalog.names():
        raise fault("name", f"{found.name} is the name of a data plane of the catalog")
    imitated = _imitated(found.imitates, fault)
    roles = give_roles(found, fault)
    if os.geteuid():
        raise Prerequisite("containers of others cannot be entered", where=path, why="not permitted", fix="run as root")
    engines = {each.name: place(each.engine) for each in found.nodes}
    homes, hosts = _homes(found, engines, fault), _hosts(found, fault)
    return _adoption(found, imitated, roles, homes, hosts, engines, os.path.dirname(os.path.abspath(path)))


def observe(
    adoption: Adoption, checks: Sequence[Check], *, timeout: float | None, on_event: Callable[[str, Event], None]
) -> Matrix:
    """Observe the checks. One that needs a change which the world does not have is not applicable.

    Raises the errors of the kernel under test.
    """
    cells: list[MatrixCell] = []
    environment: dict[str, Any] = {}

    def take(event: Event) -> None:
        if event.kind == "cell":
            cells.append(msgspec.convert({"kernel": _HOST} | event.data, MatrixCell))
        elif event.kind == "environment":
            environment.update(event.data)
        on_event(_HOST, event)

    kernel = kernels.resolve(_HOST, None)
    job = Job("adopt", checks=[each.name for each in checks], adoption=msgspec.to_builtins(adoption))
    dispatch(job, kernel, timeout=timeout, on_event=take)
    order = {each.name: number for number, each in enumerate(checks)}
    cells.sort(key=lambda cell: order[cell.check])
    name = adoption.roles.scenario.name
    world = {"name": name, "dataplane": name, "played_by": adoption.roles.played_by}
    return Matrix(
        tool=provenance.tool(),
        environment={_HOST: environment | provenance.kernel(kernel, "the world is on this machine")},
        plan={
            "dataplanes": [world],
            "checks": provenance.checks(checks),
            "command": provenance.command(),
        },
        cells=cells,
    )


def _imitated(name: str, fault: Fault) -> Selection | None:
    """Return the plane or the peer that a world imitates, if it imitates one. Raises Usage."""
    try:
        found = catalog.select(name) if name else [None]
    except Usage as error:
        raise fault("imitates", str(error)) from error
    if len(found) > 1:
        raise fault("imitates", f"{name!r} is more than one data plane")
    return found[0]


def _homes(found: WorldFile, engines: Mapping[str, EnginePlace], fault: Fault) -> dict[str, Home]:
    """Return the namespace of each container, by the container's name. Raises Usage."""
    homes: dict[str, Home] = {}
    for number, each in enumerate(found.containers):
        key = next(key for key in ("netns", "pid", "docker") if getattr(each, key))
        field = f"containers[{number}].{key}"
        try:
            path = path_of(each.netns, each.pid, each.docker, engines[each.node])
            home = find(path, fault(field, "").where)
        except ValueError as error:
            raise fault(field, str(error)) from error
        if home.inode == own_inode():
            raise fault(field, f"{each.name} is in the namespace in which bench was started, and nothing runs there")
        if other := next((name for name, known in homes.items() if known.inode == home.inode), ""):
            raise fault(field, f"{each.name} is in the same namespace as {other}")
        homes[each.name] = home
    return homes


def _hosts(found: WorldFile, fault: Fault) -> dict[str, Home]:
    """Return the own namespace of each node that tells it, by the node's name. It is only looked into. Raises Usage."""
    hosts: dict[str, Home] = {}
    for number, each in enumerate(found.nodes):
        field = f"nodes[{number}].netns"
        try:
            hosts |= {each.name: find(netns.path(each.netns), fault(field, "").where)} if each.netns else {}
        except ValueError as error:
            raise fault(field, str(error)) from error
    return hosts


def _adoption(
    found: WorldFile,
    imitated: Selection | None,
    roles: Roles,
    homes: Mapping[str, Home],
    hosts: Mapping[str, Home],
    engines: Mapping[str, EnginePlace],
    directory: str,
) -> Adoption:
    """Return the world in the checks' names."""
    return Adoption(
        roles,
        {roles.of("containers", name): home for name, home in homes.items()},
        {roles.of("nodes", name): home for name, home in hosts.items()},
        {roles.of("nodes", each.name): each.uplink for each in found.nodes},
        {roles.of("nodes", name): engine for name, engine in engines.items()},
        found.first_port,
        found.servers,
        found.scheduler,
        found.protocols,
        imitated,
        found.resolver,
        {verb: world_file.argv(command) for verb, command in found.commands.items()},
        directory,
    )
