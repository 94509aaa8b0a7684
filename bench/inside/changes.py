"""Changes of services from the shell of a lab: the tool `service`, and the requests that it makes.

The lab is in this process, and the tool is a script in the user's shell. It writes its words to a pipe of the lab, and
waits at a pipe of its own for the answer: an exit code and lines. A script needs no interpreter, which would take a
second to start where every instruction is emulated.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress

from dataplanes.errors import BenchError, Usage
from scenarios import ports, topology
from scenarios.testbed import Testbed
from scenarios.topology import ServiceSpec, Task

USAGE = """one of:
service create NAME [network=NETWORK] [replicas=N] [vip=ADDRESS] [ports=80,53/udp] [nodes=NODE,NODE]
service scale NAME REPLICAS
service drain TASK
service remove NAME|TASK
service crash TASK [container|process]"""
_MOST = 1 << 16
_REPLICAS = 1000
_TOOL = """#!/bin/sh
# Asks the lab for a change of its services, and returns when it is made.
here={directory}
case "$*" in *'
'*) echo "service: a name has no line feed" >&2; exit 2 ;; esac
answer=$here/answer.$$
mkfifo -m 600 "$answer" || exit 1
exec 3<>"$answer"
printf '%s %s\\n' "$$" "$*" >"$here/changes" || exit 1
read -r code lines <&3
rm -f "$answer"
[ "$code" = 0 ] || exec 1>&2
while [ "$lines" -gt 0 ]; do
    IFS= read -r line <&3
    printf '%s\\n' "$line"
    lines=$((lines - 1))
done
exit "$code"
"""


class Changes:
    """The requests of the tool `service`. Enter it, poll it, make what was asked for, and leave it."""

    def __init__(self, lab: Testbed, directory: str, publish: Callable[[], None]) -> None:
        """`publish` writes the lab's documents anew. It is called after every change, before the answer."""
        self._lab, self._directory, self._publish = lab, directory, publish
        self._rest = b""
        self._handle = -1

    def __enter__(self) -> Changes:
        path, tool = (os.path.join(self._directory, name) for name in ("changes", "service"))
        os.mkfifo(path, 0o600)
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(tool, "w", encoding="utf-8") as file:
            file.write(_TOOL.replace("{directory}", shlex.quote(self._directory)))
        os.chmod(tool, 0o755)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._handle)

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is a request."""
        return self._handle

    def make(self) -> None:
        """Make the changes that were asked for, and answer each."""
        with suppress(BlockingIOError):
            self._rest += os.read(self._handle, _MOST)
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            number, _, words = line.decode("utf-8", "replace").partition(" ")
            if number.isdigit():
                self._answer(number, words.split())

    def _answer(self, number: str, words: Sequence[str]) -> None:
        code, told = 1, "the lab ends"
        try:
            code, told = 0, change(self._lab, words)
        except BenchError as error:
            code, told = error.exit_code, f"service: {error}"
        finally:  # the lab ends because of a signal, and whoever asked must not wait for ever
            self._publish()
            lines = told.splitlines()
            with suppress(OSError):  # nobody waits any more
                handle = os.open(os.path.join(self._directory, f"answer.{number}"), os.O_WRONLY | os.O_NONBLOCK)
                with open(handle, "w", encoding="utf-8") as answer:
                    answer.write("\n".join([f"{code} {len(lines)}", *lines, ""]))


def change(lab: Testbed, words: Sequence[str]) -> str:
    """Make a change, and return a line that tells the service as it is then. Raises Usage for what cannot be."""
    what, *rest = words or [""]
    made = {"create": _create, "scale": _scale, "drain": _drain, "remove": _remove, "crash": _crash}.get(what)
    if not made:
        raise Usage(f"no such change: {what!r}" if what else "no change", fix=USAGE)
    told = made(lab, rest)
    lab.settled()
    return told


def _create(lab: Testbed, words: Sequence[str]) -> str:
    name, *options = words or [""]
    given = dict(option.partition("=")[::2] for option in options)
    if unknown := sorted(given.keys() - {"network", "replicas", "vip", "ports", "nodes"}):
        raise Usage(f"unknown option {unknown[0]!r}", fix=USAGE)
    if not topology.is_label(name):
        raise Usage(f"{name!r} is not a DNS name of at most 32 lower-case letters, digits, - and .")
    network = given.get("network", lab.scenario.service(lab.scenario.traffic.service).network)
    if network not in {each.name for each in lab.scenario.networks}:
        known = ", ".join(each.name for each in lab.scenario.networks)
        raise Usage(f"no network {network!r}", fix=f"there are: {known}")
    nodes = _listed(given.get("nodes", "")) or lab.scenario.nodes
    if unknown := sorted(set(nodes) - set(lab.scenario.nodes)):
        raise Usage(f"no node {unknown[0]!r}", fix=f"there are: {', '.join(lab.scenario.nodes)}")
    declared = _listed(given.get("ports", ""))
    try:
        ports.parse(declared)
    except ValueError as error:
        raise Usage(str(error)) from error
    count = _count(given.get("replicas", "1"))
    tasks = [Task(f"{name}.{number + 1}", nodes[number % len(nodes)]) for number in range(count)]
    if taken := [task.name for task in tasks if task.name in lab.containers]:
        raise Usage(f"a container is called {taken[0]} already")
    lab.create_service(ServiceSpec(name, network, given.get("vip", ""), tasks, nodes=nodes, ports=declared))
    return _told(lab, name)


def _scale(lab: Testbed, words: Sequence[str]) -> str:
    name, count = _exactly(words, 2)
    lab.scale(_service(lab, name), _count(count))
    return _told(lab, name)


def _drain(lab: Testbed, words: Sequence[str]) -> str:
    (task,) = _exactly(words, 1)
    service = _task(lab, task)
    lab.drain(task)
    return _told(lab, service)


def _remove(lab: Testbed, words: Sequence[str]) -> str:
    (name,) = _exactly(words, 1)
    if name in {spec.name for spec in lab.specs()}:
        lab.remove_service(name)
        return f"{name} is removed"
    service = _task(lab, name)
    lab.remove_task(name)
    return _told(lab, service)


def _crash(lab: Testbed, words: Sequence[str]) -> str:
    task, what = _exactly([*words, "container"][: max(len(words), 2)], 2)
    _task(lab, task)
    if lab.containers[task].crashed:
        raise Usage(f"the container of {task} has crashed already")
    if what not in ("container", "process"):
        raise Usage(f"cannot crash a {what!r}", fix=USAGE)
    if what == "process":
        lab.stop_server(task)
        return f"the processes of {task} have ended; its addresses stay"
    lab.crash(task)
    return f"{task} is gone with its namespace; its service still lists it"


def _exactly(words: Sequence[str], count: int) -> Sequence[str]:
    if len(words) != count:
        raise Usage("this change takes other words", fix=USAGE)
    return words


def _listed(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or int(text) > _REPLICAS:
        raise Usage(f"{text!r} is not a number of replicas from 0 to {_REPLICAS:,}")
    return int(text)


def _service(lab: Testbed, name: str) -> str:
    known = [spec.name for spec in lab.specs()]
    if name not in known:
        raise Usage(f"no service {name!r}", fix=f"there are: {', '.join(known)}")
    return name


def _task(lab: Testbed, name: str) -> str:
    """Return the service of a task."""
    tasks = {task.name: spec.name for spec in lab.specs() for task in spec.tasks}
    if name not in tasks or name not in lab.containers:
        raise Usage(f"no task {name!r}", fix=f"there are: {', '.join(tasks)}")
    return tasks[name]


def _told(lab: Testbed, name: str) -> str:
    """Return a service with its VIP and its tasks in a line."""
    (spec,) = (spec for spec in lab.specs() if spec.name == name)
    weights = {backend.address: backend.weight for backend in lab.service(name).backends}
    tasks = [
        f"{task.name} ({task.address} on {task.node}{'' if weights[task.address] else ', drained'})"
        for task in spec.tasks
    ]
    return f"{name} ({spec.vip}): {', '.join(tasks) or 'no task'}"
