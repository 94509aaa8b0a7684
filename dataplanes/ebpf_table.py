"""The eBPF programs and maps of one network on one node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from dataplanes.base import Counter, Director, Footprint
from dataplanes.ebpf_object import Loaded
from dataplanes.elements import Decisive
from dataplanes.hooks import Hooks
from dataplanes.kernel import bpf
from dataplanes.model import Service


class Table:
    """The programs and maps of one network on one node. They are removed with the last container there."""

    parts: tuple[str, ...] = ()
    """The maps that `footprint` tells as one."""

    def __init__(self, node: str, loaded: Loaded, hooks: Hooks, forget: Callable[[], object]) -> None:
        self.node, self.loaded, self.hooks = node, loaded, hooks
        self.users: list[Director] = []
        self._maps = loaded.maps
        self._forget = forget

    def close(self) -> None:
        """Remove the programs and the maps. Idempotent."""
        self._forget()
        self.hooks.close()
        self.loaded.close()

    def apply(self, services: Sequence[Service]) -> None:
        """Do nothing: these programs have no services."""

    def remove(self, services: Sequence[Service]) -> None:
        """Do nothing: these programs have no services."""

    def resync(self) -> None:
        """Do nothing: the hooks restore the other maps."""

    def holds(self, service: Service) -> bool:
        """Return False if the maps have lost a service."""
        return True

    def elements(self, ends: Collection[str], since: int) -> Iterable[Decisive]:
        """Return the elements that have decided about packets (see `DataPlane.elements`)."""
        return ()

    def counters(self) -> list[Counter]:
        """Return what each backend of each service was sent."""
        return []

    def footprint(self) -> list[Footprint]:
        """Return what the node holds in the kernel, besides the containers' attachments."""
        shared = self.hooks.shared()
        attached = [Footprint(self.node, "bpf attachments", shared)] if shared else []
        return attached + [
            Footprint(self.node, f"bpf map {name}", sum(1 for _ in each.items()), memory(each))
            for name, each in self._maps.items()
            if name not in self.parts
        ]


def memory(each: bpf.Map) -> int | None:
    """Return the memory of the map in bytes, as the kernel tells it.

    Since Linux 6.4 it is the memory in use, and before that the most the map may use.
    """
    with open(f"/proc/self/fdinfo/{each.fd}", encoding="ascii") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return None
