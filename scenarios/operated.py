"""An adopted world in which commands of its owner make changes, so that checks have services of their own.

A command gets a document on its stdin, and returns when the change is in effect on every node. It makes containers,
and tells of them on its stdout. Nothing else in that world is changed: services that were there stay as they are.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import msgspec
from msgspec import Struct

from dataplanes.errors import BenchError, NotApplicable, TimedOut
from dataplanes.kernel.process import owners
from dataplanes.model import Backend, Service
from dataplanes.texts import line
from scenarios.adopted import Adopted, Adoption
from scenarios.homes import Home, find, own_inode, path_of
from scenarios.roster import next_name
from scenarios.topology import ServiceSpec, Task
from scenarios.world_file import CommandVerb

_PATIENCE = 120.0
"""Seconds in which a command has to be done."""
_CANNOT = NotApplicable.exit_code
"""The exit code of a command that cannot do this, by its nature."""
_THEIRS = "only services of the checks are changed"


class WantedContainer(Struct, frozen=True):
    """A container that a service is to have. `address` is asked for, if it is not empty."""

    name: str
    node: str
    address: str = ""


class CommandRequest(Struct, frozen=True, omit_defaults=True):
    """The document of a command. `containers` are all that the service is to have."""

    verb: CommandVerb
    service: str
    network: str = ""  # of create
    vip: str = ""  # of create: the one that is asked for, if it is not empty
    containers: tuple[WantedContainer, ...] = ()  # of create and scale
    container: str = ""  # of drain


class MadeContainer(Struct, frozen=True, forbid_unknown_fields=True):
    """A container that was made: its address on the service's network, and `netns` or `docker`."""

    name: str
    address: str
    netns: str = ""
    docker: str = ""


class CommandAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer of create and scale: the VIP, and every container that the service has now."""

    vip: str = ""
    containers: tuple[MadeContainer, ...] = ()


class Operated(Adopted):
    """An adopted world whose owner gave commands."""

    reasons: ClassVar[Mapping[str, str]] = {
        **Adopted.reasons,
        "apply": "no command changes the backends of a service while their containers run",
        "withdraw": "no command removes a service while its containers run",
        "demand_alterable": f"it changes rules or settings of others, and {_THEIRS}",
        "reinstall": f"it removes the balancer, and {_THEIRS}",
        "behind": f"it needs a machine behind a container, and {_THEIRS}",
        "alias": f"it gives a container further addresses, and {_THEIRS}",
        "resync": f"it removes rules of others, and {_THEIRS}",
        **dict.fromkeys(("late", "deaf", "unaware"), "no command keeps a node from hearing of a change"),
        "scale": "the world file has no command to scale",
        "drain": "the world file has no command to drain",
        "remove_task": "the world file has no command to scale",
        "crash": "the world file has no command to crash a container",
        "stop_server": "servers of others are not ended",
    }

    def __init__(self, adoption: Adoption, server: Callable[[Task], Sequence[str]]) -> None:
        super().__init__(adoption, server)
        self._specs: dict[str, ServiceSpec] = {}  # the services of checks
        self._drained: set[str] = set()

    def service(self, name: str) -> Service:
        if name not in self._specs:
            return super().service(name)
        spec = self._specs[name]
        backends = tuple(Backend(each.address, 0 if each.name in self._drained else 1) for each in spec.tasks)
        return Service(name, spec.network, spec.vip, backends)

    def services(self) -> list[Service]:
        return super().services() + [self.service(name) for name, spec in self._specs.items() if spec.tasks]

    # -- changes -----------------------------------------------------------------------------------------------

    def create_service(self, spec: ServiceSpec) -> None:
        if any(task.remapped for task in spec.tasks):
            raise NotApplicable("commands make no containers with a user namespace of their own")
        network = self._adoption.roles.actor("networks", spec.network)
        wanted = self._wanted(spec.tasks)
        tasks, spec.tasks = spec.tasks, []
        self._specs[spec.name] = spec
        try:
            answer = self._do(CommandRequest("create", spec.name, network, spec.vip, wanted))
            spec.vip = answer.vip
            self._take_in(spec, tasks, answer)
        except NotApplicable:
            del self._specs[spec.name]
            raise
        except BenchError:  # a command that failed or was not done in time may have made a part
            self.remove_service(spec.name)
            raise

    def remove_service(self, name: str) -> None:
        spec = self._own(name)
        try:
            self._do(CommandRequest("remove", name))
        finally:
            for task in spec.tasks:
                self._leave(task.name)
                self._drained.discard(task.name)
            del self._specs[name]

    def scale(self, name: str, replicas: int) -> None:
        spec = self._own(name)
        nodes, tasks = spec.nodes or self.scenario.nodes, spec.tasks[:replicas]
        for number in range(len(tasks), replicas):
            tasks.append(Task(next_name(name, [each.name for each in tasks]), nodes[number % len(nodes)]))
        self._scale(spec, tasks)

    def remove_task(self, task: str) -> None:
        spec = self._own(self.containers[task].task.service)
        self._scale(spec, [each for each in spec.tasks if each.name != task])

    def drain(self, task: str) -> None:
        spec = self._own(self.containers[task].task.service)
        self._do(CommandRequest("drain", spec.name, container=task))
        self._drained.add(task)

    def stop_server(self, task: str) -> None:
        self._own(self.containers[task].task.service)
        self.containers[task].stop()  # it is our server, beside a container that was made for the check

    def demand_alterable(self, namespaces: Sequence[str]) -> None:
        """Permit changes in containers that were made for a check."""
        ours = {self.containers[task.name].netns for spec in self._specs.values() for task in spec.tasks}
        if not set(namespaces) <= ours:
            raise self.not_applicable("demand_alterable")

    # -- commands ----------------------------------------------------------------------------------------------

    def _own(self, name: str) -> ServiceSpec:
        if name not in self._specs:
            raise NotApplicable(_THEIRS)
        return self._specs[name]

    def _wanted(self, tasks: Sequence[Task]) -> tuple[WantedContainer, ...]:
        actor = self._adoption.roles.actor
        return tuple(WantedContainer(each.name, actor("nodes", each.node), each.address) for each in tasks)

    def _scale(self, spec: ServiceSpec, tasks: Sequence[Task]) -> None:
        before, kept = list(spec.tasks), {each.name for each in tasks}
        answer = self._do(CommandRequest("scale", spec.name, containers=self._wanted(tasks)))
        for gone in [each for each in before if each.name not in kept]:
            self._leave(gone.name)
        spec.tasks = [each for each in before if each.name in kept]
        self._take_in(spec, [each for each in tasks if each not in before], answer)

    def _take_in(self, spec: ServiceSpec, tasks: Sequence[Task], answer: CommandAnswer) -> None:
        """Take in the containers that a command has made, and start their servers."""
        made = {each.name: each for each in answer.containers}
        for task in tasks:
            where = f"{spec.name}: {task.name}"
            if task.name not in made:
                raise BenchError("the command does not tell of a container", where=where)
            told = made[task.name]
            task.service, task.network, task.address = spec.name, spec.network, told.address
            task.number = max((each.number for each in spec.tasks), default=0) + 1
            try:
                path = path_of(told.netns, 0, told.docker, self._adoption.engines[task.node])
                home = self._unknown(find(path, where))
            except ValueError as error:
                raise BenchError("the command tells of no container", where=where, why=str(error)) from error
            container = self._adopt(task, home)
            spec.tasks.append(task)
            self._start(container)

    def _unknown(self, home: Home) -> Home:
        """Return a namespace that a command has made. Raises ValueError if it was there before."""
        there = {each.inode for each in (*self._adoption.homes.values(), *self._adoption.hosts.values())}
        if home.inode in there | {own_inode()}:
            raise ValueError(f"{home.path} was there before")
        return home

    def _do(self, request: CommandRequest) -> CommandAnswer:
        """Have a command make a change. Raises NotApplicable if there is none, or if it cannot by its nature."""
        verb = request.verb
        if verb not in self._adoption.commands:
            raise self.not_applicable(verb)
        argv = self._adoption.commands[verb]
        where = line(f"{os.path.basename(argv[0])}: {verb} {request.service}")
        given = msgspec.json.encode(request) + b"\n"
        env = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_")}
        try:
            done = subprocess.run(
                argv,
                input=given,
                capture_output=True,
                check=False,
                timeout=_PATIENCE,
                cwd=self._adoption.directory,
                env=env,
                preexec_fn=partial(owners, os.getpid()),
            )
        except OSError as error:
            raise BenchError("the command cannot be run", where=where, why=error.strerror or "") from error
        except subprocess.TimeoutExpired as error:
            raise TimedOut("the command is not done", where=where, why=f"{_PATIENCE:g} s") from error
        if done.returncode:
            said = line(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
            why = said or f"exit code {done.returncode}"
            if done.returncode == _CANNOT:
                raise NotApplicable(why)
            raise BenchError("the command refuses", where=where, why=why)
        try:
            return msgspec.json.decode(done.stdout, type=CommandAnswer) if done.stdout.strip() else CommandAnswer()
        except msgspec.MsgspecError as error:
            raise BenchError("the command's answer cannot be read", where=where, why=str(error)) from error
