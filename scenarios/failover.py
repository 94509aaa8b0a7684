"""How long a failure is felt: `python -m scenarios.failover container TASK|node NODE|told TASK`, run in `bench lab`.

From the lab's client a connection to the task's service begins every 20 ms, before the failure and after it. It is felt
until the last connection begins that does not come about. Nothing here knows what balances, so that our planes and
others' are asked in the same way:

    bench lab --dataplane swarm@26.1 -- python -m scenarios.failover container my-web.3

`container` kills the processes of a task, `node` takes a node off the underlay, and `told` has the lab remove a task.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from dataplanes.errors import BenchError, Usage
from dataplanes.kernel import interrupt, netns
from dataplanes.kernel.rtnl import Rtnl
from scenarios.document import LabDocument

_EVERY, _BEFORE, _AFTER, _MOST = 0.02, 0.5, 10.0, 60.0
"""Seconds between connections, before the failure, after the last one that was felt, and for which it is looked."""
_SILENT = 3.0
"""Seconds after which a connection has not come about."""
_USAGE = "python -m scenarios.failover container TASK|node NODE|told TASK"


class _Attempt(Struct):
    """A connection that was begun."""

    begun: float
    handle: socket.socket
    failed: bool = False
    over: bool = False


class Felt(Struct, frozen=True):
    """What clients have felt of a failure. Seconds are counted from it."""

    last: float | None  # when the last connection began that did not come about; None: all did
    failed: int
    begun: int
    ended: bool  # False: it was still felt when nobody looked any more

    def told(self) -> str:
        """Return a sentence."""
        of = f"{self.failed} of {self.begun} connections did not come about"
        if self.last is None:
            return f"not felt: all of {self.begun} connections came about"
        return f"felt for {self.last:.2f} s: {of}" if self.ended else f"still felt after {self.last:.0f} s: {of}"


def felt(open_socket: Callable[[], socket.socket], address: tuple[str, int], fail: Callable[[], object]) -> Felt:
    """Connect again and again, let something fail, and return what was felt of it."""
    attempts: list[_Attempt] = []
    with selectors.DefaultSelector() as selector:
        begin = time.monotonic()
        failed_at, due = 0.0, begin
        while True:
            now = time.monotonic()
            if not failed_at and now - begin >= _BEFORE:
                fail()
                failed_at = time.monotonic()
            if now >= due:
                attempts.append(_begin(open_socket(), address, selector, now))
                due = max(due + _EVERY, now)
            for each in attempts:
                if not each.over and now - each.begun > _SILENT:
                    _end(each, selector, failed=True)
            if failed_at and _quiet(attempts, failed_at, now):
                break
            for key, _ in selector.select(max(due - time.monotonic(), 0)):
                _end(key.data, selector, failed=key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)  # type: ignore[union-attr]
        for each in attempts:
            if not each.over:
                _end(each, selector, failed=False)  # it was begun too late to be judged
    lost = [each.begun - failed_at for each in attempts if each.failed]
    last = max(lost, default=None)
    return Felt(last, len(lost), len(attempts), last is None or last < _MOST - _AFTER)


def _begin(handle: socket.socket, address: tuple[str, int], selector: selectors.BaseSelector, now: float) -> _Attempt:
    attempt = _Attempt(now, handle)
    handle.setblocking(False)
    selector.register(handle, selectors.EVENT_WRITE, attempt)
    code = handle.connect_ex(address)
    if code not in (0, errno.EINPROGRESS):
        _end(attempt, selector, failed=True)
    return attempt


def _end(attempt: _Attempt, selector: selectors.BaseSelector, *, failed: bool) -> None:
    attempt.over, attempt.failed = True, failed
    selector.unregister(attempt.handle)
    attempt.handle.close()


def _quiet(attempts: Sequence[_Attempt], failed_at: float, now: float) -> bool:
    """Return True if nothing was felt for a while, or it has been looked long enough."""
    since = max([failed_at, *(each.begun for each in attempts if each.failed)])
    return now - since > _AFTER or now - failed_at > _MOST


def _failure(lab: LabDocument, what: str, name: str) -> Callable[[], object]:
    """Return the function that lets something fail. Raises Usage for what the lab does not have."""
    if what == "node":
        found = next((each for each in lab.nodes if each.name == name), None)
        if found:
            return lambda: _cut(found.netns)
    task = next((each for each in lab.tasks if each.name == name), None)
    if task and what == "container":
        return lambda: _kill(task.netns)
    if task and what == "told":
        return lambda: subprocess.run(("service", "remove", name), check=True, stdout=subprocess.DEVNULL)
    raise Usage(f"cannot let {what} {name} fail", why="the lab has no such thing", fix=_USAGE)


def _cut(namespace: str) -> None:
    with Rtnl(namespace) as rtnl:
        rtnl.send([rtnl.link_set("eth0", up=False)])


def _kill(namespace: str) -> None:
    for pid in subprocess.run(("ip", "netns", "pids", namespace), check=True, capture_output=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def run(words: Sequence[str]) -> int:
    """Measure, and print one sentence."""
    if len(words) != 2 or "BENCH_LAB" not in os.environ:
        raise Usage("a kind of failure and a name are missing, or there is no lab", fix=f"in bench lab: {_USAGE}")
    with open(os.environ["BENCH_LAB"], "rb") as file:
        lab = msgspec.json.decode(file.read(), type=LabDocument)
    fail = _failure(lab, *words)
    client = next(each for each in lab.tasks if each.name == os.environ["BENCH_CLIENT"])
    served = next(each for each in lab.services if each.tasks and _balanced(lab, each.tasks, words[1]))

    def open_socket() -> socket.socket:
        with netns.inside(client.netns):
            return socket.socket()

    print(f"{words[0]} {words[1]}: {felt(open_socket, (served.vip, served.ports[0]), fail).told()}")
    return 0


def _balanced(lab: LabDocument, tasks: Sequence[str], name: str) -> bool:
    """Return True if one of several tasks of a service is the one that fails, or is on the node that does."""
    places = {each.name: each.node for each in lab.tasks}
    return len(tasks) > 1 and any(name in (task, places.get(task)) for task in tasks)


def main() -> int:
    """Run as a program."""

    def tell(error: BenchError) -> None:
        print(f"failover: {error}", file=sys.stderr)

    return interrupt.exit_code(lambda: run(sys.argv[1:]), tell)


if __name__ == "__main__":
    sys.exit(main())
