"""A swarm's services and tasks by the engine's API: what is asked for, and what the orchestrator has made of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from dataplanes.errors import BenchError, TimedOut
from scenarios.engine import Engine, Refused
from scenarios.swarm import image
from scenarios.topology import VXLAN

_GRACE = 120_000_000_000
"""Nanoseconds for which a task that is shut down may go on: longer than a check looks at it."""
_HEARTBEAT = 24 * 3600 * 1_000_000_000
"""Nanoseconds between the signs of life that a node gives its manager (docker swarm init --dispatcher-heartbeat).

The daemons stand still while a check idles, for hours, and no node is to be taken for dead after that.
"""
_RUNS, _LOOK = 300.0, 0.2
"""Seconds that a task may take to run, and between looks."""
_OVER = ("failed", "rejected", "orphaned", "complete", "shutdown")
_TRIES = 10


class Running(Struct, frozen=True):
    """A task that runs."""

    id: str
    slot: int
    node: str
    container: str
    pid: int  # in its node's PID namespace
    addresses: dict[str, str]  # network's id -> address


def _set(spec: dict[str, Any], **values: object) -> None:
    spec.update(values)


class Orchestrator:
    """The manager's side of a swarm."""

    def __init__(self, manager: Engine) -> None:
        self._manager = manager
        self._networks: dict[str, str] = {}
        self._services: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._only: dict[str, str] = {}  # node -> its availability, as it was set

    def initialize(self, address: str, workers: Mapping[str, Engine], addresses: Mapping[str, str]) -> None:
        """Make the swarm, and have the workers join."""
        pool = {"DefaultAddrPool": ["10.255.0.0/16"], "SubnetSize": 24}  # of the ingress network, which nothing uses
        spec = {"Spec": {"Dispatcher": {"HeartbeatPeriod": _HEARTBEAT}}}
        self._manager.post("/swarm/init", {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": address, **pool, **spec})
        token = self._manager.get("/swarm")["JoinTokens"]["Worker"]
        for name, worker in workers.items():
            join = {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": addresses[name], "JoinToken": token}
            worker.post("/swarm/join", {**join, "RemoteAddrs": [f"{address}:2377"]})
        wanted = {*workers}
        self._await(lambda: wanted <= {*self._ready().values()}, "the nodes are not ready")
        self._names = self._ready()

    def _ready(self) -> dict[str, str]:
        nodes = self._manager.get("/nodes")
        return {each["ID"]: each["Description"]["Hostname"] for each in nodes if each["Status"]["State"] == "ready"}

    def network(self, name: str, subnet: str, mtu: int) -> None:
        """Create an overlay network. The driver is told the MTU of the packets around its own (libnetwork, maxMTU)."""
        spec = {"Name": name, "Driver": "overlay", "IPAM": {"Config": [{"Subnet": subnet}]}}
        options = {"com.docker.network.driver.mtu": str(mtu + VXLAN)}
        self._networks[name] = self._manager.post("/networks/create", {**spec, "Options": options})["Id"]

    def network_id(self, name: str) -> str:
        """Return a network's id."""
        return self._networks[name]

    def create(self, name: str, networks: Sequence[str], command: Sequence[str]) -> None:
        """Create a service without tasks."""
        # The orchestrator fills in the slot in the environment, and not in the command.
        slot = [f"{image.NUMBER}={{{{.Task.Slot}}}}"]
        container = {"Image": image.NAME, "Command": list(command), "Env": slot, "StopGracePeriod": _GRACE}
        template = {
            "ContainerSpec": container,
            "Networks": [{"Target": self._networks[each]} for each in networks],
            "RestartPolicy": {"Condition": "none"},
            "Placement": {},
        }
        mode = {"Mode": {"Replicated": {"Replicas": 0}}, "EndpointSpec": {"Mode": "vip"}}
        spec = {"Name": name, "TaskTemplate": template, **mode, "UpdateConfig": {"Parallelism": 0}}
        self._services[name] = self._manager.post("/services/create", spec)["ID"]

    def remove(self, name: str) -> None:
        """Remove a service. Its tasks are shut down."""
        self._manager.delete(f"/services/{self._services.pop(name)}")

    def vip(self, name: str, network: str) -> str:
        """Return a service's VIP on a network."""
        found = self._manager.get(f"/services/{self._services[name]}")["Endpoint"].get("VirtualIPs") or []
        return next((v["Addr"].partition("/")[0] for v in found if v["NetworkID"] == self._networks[network]), "")

    def place(self, name: str, node: str, known: Collection[str]) -> Running:
        """Create one more task of a service, on this node. Return it when it runs."""
        self._available({node})

        def more(spec: dict[str, Any]) -> None:
            spec["Mode"]["Replicated"]["Replicas"] += 1

        self._change(name, more)
        return self._await_running(name, known)

    def hold(self, name: str, replicas: int) -> None:
        """Change the number of tasks, with no node for new ones."""
        self._available(set())
        self._change(name, lambda spec: _set(spec["Mode"]["Replicated"], Replicas=replicas))

    def await_none(self, name: str) -> None:
        """Wait until a service that has no tasks any more is known to have none.

        A manager that is told of a new task before that makes none (seen with 20.10.24, after `docker service scale`).
        """

        def left() -> list[str]:
            return [each["ID"] for each in self._manager.get("/tasks", service=[name])]

        self._await(lambda: not left(), f"{name} still has tasks", lambda: ", ".join(left()))

    def banish(self, name: str, node: str) -> None:
        """Shut down a service's tasks on a node, and let no others take their place."""
        self._available(set())

        def elsewhere(spec: dict[str, Any]) -> None:
            placement = spec["TaskTemplate"].setdefault("Placement", {})
            placement["Constraints"] = [*(placement.get("Constraints") or []), f"node.hostname != {node}"]

        self._change(name, elsewhere)

    def _available(self, nodes: Collection[str]) -> None:
        """Let the scheduler put tasks on these nodes only. What runs elsewhere runs on."""
        for node, name in self._names.items():
            wanted = "active" if name in nodes else "pause"
            if self._only.get(name) != wanted:
                self._retry(f"/nodes/{node}", partial(_set, Availability=wanted))
                self._only[name] = wanted

    def _change(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        self._retry(f"/services/{self._services[name]}", change)

    def _retry(self, path: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change an object. The manager may change it between the reading and the writing."""
        for tried in range(_TRIES):
            found = self._manager.get(path)
            change(found["Spec"])
            try:
                return self._manager.change(path, found["Version"]["Index"], found["Spec"])
            except Refused as error:
                if "out of sequence" not in str(error) or tried == _TRIES - 1:
                    raise
        return None

    def _await_running(self, name: str, known: Collection[str]) -> Running:
        found: list[dict[str, Any]] = []

        def runs() -> bool:
            every = self._manager.get("/tasks", service=[name])  # those that are shut down included
            found[:] = [t for t in every if t["ID"] not in known and t["DesiredState"] == "running"]
            for each in found:
                if each["Status"]["State"] in _OVER:
                    why = f"{each['Status']['State']}: {each['Status'].get('Err', '')}"
                    raise BenchError("a task does not run", where=name, why=why)
            return any(each["Status"]["State"] == "running" for each in found)

        self._await(runs, f"no task of {name} runs", lambda: "; ".join(str(each["Status"]) for each in found))
        return self._running(next(each for each in found if each["Status"]["State"] == "running"))

    def _running(self, task: Mapping[str, Any]) -> Running:
        status = task["Status"]["ContainerStatus"]
        attached: Iterable[Mapping[str, Any]] = task["NetworksAttachments"]
        return Running(
            task["ID"],
            task["Slot"],
            self._names[task["NodeID"]],
            status["ContainerID"],
            status["PID"],
            {each["Network"]["ID"]: each["Addresses"][0].partition("/")[0] for each in attached},
        )

    def _await(self, ready: Callable[[], bool], what: str, why: Callable[[], str] = lambda: "") -> None:
        deadline = time.monotonic() + _RUNS
        while not ready():
            if time.monotonic() > deadline:
                raise TimedOut(what, where="swarm", why=why())
            time.sleep(_LOOK)
