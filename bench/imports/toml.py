"""A scenario as the text of its file."""

from __future__ import annotations

import json
from collections.abc import Iterator

from scenarios.topology import Scenario, ServiceSpec, Task


def text(scenario: Scenario, comment: str) -> str:
    """Return a scenario as TOML, below a comment. Fields with their default values are left out."""
    return "\n".join(_lines(scenario, comment)) + "\n"


def _lines(scenario: Scenario, comment: str) -> Iterator[str]:
    yield from (f"# {line}".rstrip() for line in comment.splitlines())
    yield f"description = {_quoted(scenario.description)}"
    yield f"nodes = {_listed(scenario.nodes)}"
    for network in scenario.networks:
        yield from ("", "[[networks]]", f"name = {_quoted(network.name)}", f"subnet = {_quoted(network.subnet)}")
        yield f"mtu = {network.mtu}"
    for service in scenario.services:
        yield from ("", "[[services]]", *_service(service))
    if scenario.filler:
        yield from ("", "[filler]", f"count = {scenario.filler.count}", f"backends = {scenario.filler.backends}")
    traffic = scenario.traffic
    yield from ("", "[traffic]", f"client = {_quoted(traffic.client)}", f"service = {_quoted(traffic.service)}")
    yield f"port = {traffic.port}"


def _service(service: ServiceSpec) -> Iterator[str]:
    yield f"name = {_quoted(service.name)}"
    yield f"network = {_quoted(service.network)}"
    if service.vip:
        yield f"vip = {_quoted(service.vip)}"
    if service.ports:
        yield f"ports = {_listed(service.ports)}"
    yield "tasks = ["
    yield from (f"    {{ {', '.join(_task(task))} }}," for task in service.tasks)
    yield "]"


def _task(task: Task) -> Iterator[str]:
    yield f"name = {_quoted(task.name)}"
    yield f"node = {_quoted(task.node)}"
    if task.address:
        yield f"address = {_quoted(task.address)}"
    if task.weight != 1:
        yield f"weight = {task.weight}"
    if task.joins:
        joined = (f"{_quoted(network)} = {_quoted(address)}" for network, address in task.joins.items())
        yield f"joins = {{ {', '.join(joined)} }}"


def _listed(texts: list[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _quoted(text: str) -> str:
    """Return a basic string. JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
