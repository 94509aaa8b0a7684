"""Translate the wanted state of a site for HAProxy: a configuration file, with which it is reloaded at each change.

It serves protocol 1 (docs/bring-your-own.md), and needs nothing but python's own library. A reload starts a new
process, which takes over the listening sockets. The old one serves the connections that it has until they end
(HAProxy's management guide, 4, -sf).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

_GLOBAL = """global
  nbthread 1
defaults
  mode tcp
  balance roundrobin
  retries 0
  timeout connect 3s
  timeout client 24h
  timeout server 24h
"""
"""One thread, so that turns are strict; no other backend after one has refused; and idle connections stay."""


class Haproxy:
    """HAProxy at a site: its configuration, and the processes that may still serve connections."""

    def __init__(self) -> None:
        state = os.environ["PLANE_STATE"]
        self._configuration, self._pids = os.path.join(state, "haproxy.cfg"), os.path.join(state, "pids")
        self._started: list[int] = []  # all that may still run, the newest last

    def program(self, services: list[dict[str, Any]]) -> None:
        """Have it serve these services. Without one it ends, because it does not start without a listener."""
        if not any(service["ports"] for service in services):
            self._end(signal.SIGUSR1)  # connections go on, as at a reload
            return
        with open(self._configuration, "w", encoding="utf-8") as file:
            file.write(_GLOBAL + "".join(f"{line}\n" for each in services for line in _listeners(each)))
        running = self._running()
        finish = ("-sf", *map(str, running)) if running else ()
        argv = ("haproxy", "-D", "-f", self._configuration, "-p", self._pids, *finish)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            alerts = [line for line in done.stderr.splitlines() if "[ALERT]" in line]
            raise RuntimeError((alerts or done.stderr.splitlines() or [f"haproxy ends with {done.returncode}"])[0])
        with open(self._pids, encoding="ascii") as file:
            self._started = [*running, *map(int, file.read().split())]

    def stop(self) -> None:
        """End it with its connections."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        for pid in self._running():
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    def _running(self) -> list[int]:
        self._started = [pid for pid in self._started if _runs(pid)]
        return self._started


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _listeners(service: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the configuration for a service: a listener for each of its ports."""
    for port in (each["number"] for each in service["ports"]):
        yield f"listen {service['name']}-{port}"
        yield f"  bind {service['vip']}:{port} transparent"
        for each in service["backends"]:
            yield f"  server {each['address']} {each['address']}:{port} weight {each['weight']}"


def answer(haproxy: Haproxy, call: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a call. Raises RuntimeError."""
    if call["verb"] in ("open", "apply", "resync"):
        haproxy.program(call["services"])
    elif call["verb"] == "close":
        haproxy.stop()
    elif call["verb"] == "footprint":
        listeners = sum(len(each["ports"]) for each in call["services"])
        return {"footprint": [{"kind": "listening sockets", "objects": listeners}]}
    return {}


def main() -> None:
    """Serve the calls on stdin, a line each."""
    haproxy = Haproxy()
    for line in sys.stdin:
        try:
            told = answer(haproxy, json.loads(line))
        except (RuntimeError, OSError) as error:
            told = {"error": str(error)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
