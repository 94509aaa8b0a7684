"""Translate the wanted state of a site for nftlb: a daemon for each site, whose JSON API makes a farm of a service.

It serves protocol 1 (docs/bring-your-own.md), and needs nothing but python's own library. What the API means is told in
nftlb's README. A backend of weight 0 has the state `off`, in which it takes no new connections.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from typing import Any

_PORT = 5555
_STARTS = 20.0
_TABLE = ("table", "ip", "nftlb")
_KINDS = {"chain": "nft chains", "rule": "nft rules", "map": "nft sets", "set": "nft sets"}
"""The objects that nft lists -> the kind of state that they are."""


class Nftlb:
    """The daemon of a site, and the services that it has."""

    def __init__(self) -> None:
        self._state = os.environ["PLANE_STATE"]
        self._log = os.path.join(self._state, "log")
        self._key = os.urandom(8).hex()
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Start the daemon, which removes what an earlier one has left, and wait until it answers."""
        self.stop()
        options = ("-k", self._key, "-H", "127.0.0.1", "-P", str(_PORT), "-l", "3", "-L", "2")
        with open(self._log, "wb") as log:
            argv = ("setpriv", "--pdeathsig", "KILL", "nftlb", *options)  # it ends with this process
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _STARTS
        while True:
            try:
                self._ask("GET", "/farms")
                return
            except ConnectionRefusedError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nftlb does not start: {' '.join(self._said()[-1:])}") from None
                time.sleep(0.01)  # nothing else tells that it listens

    def stop(self) -> None:
        """End the daemon. Its table stays, as when it is killed."""
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._known.clear()

    def program(self, services: dict[str, dict[str, Any]], changed: list[str], source: str) -> None:
        """Make farms of the services that change, and remove those of services that are not wanted any more."""
        for name in changed:
            known, wanted = self._known.get(name), services.get(name)
            if known and (not wanted or wanted["vip"] != known["vip"]):
                self._tell("DELETE", f"/farms/{name}")
                del self._known[name]
                known = None
            if wanted:
                self._known[name] = wanted
                self._tell("POST", "/farms", {"farms": [_farm(wanted, source)]})
                for backend in _addresses(known) - _addresses(wanted):
                    self._tell("DELETE", f"/farms/{name}/backends/{backend}")

    def _tell(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """Call the API for a change. Raises RuntimeError, also if the kernel has refused the rules.

        The API says "success" then, too, and only the log tells (src/nft.c, exec_cmd_open). The daemon programs
        everything anew after an error, and says if it has (src/objects.c, obj_recovery).
        """
        before = os.path.getsize(self._log)
        self._ask(method, path, body)
        said = self._said(before)
        refused = next((line for line in said if line.startswith("nft command error")), "")
        if refused and not said[-1].startswith("nft recovered"):
            raise RuntimeError(refused)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=_STARTS)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Key": self._key})
            answer = connection.getresponse()
            told = answer.read().decode("utf-8", "replace")
        except (http.client.HTTPException, TimeoutError, ConnectionResetError, BrokenPipeError) as error:
            raise RuntimeError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{method} {path}: {answer.status}: {' '.join(told.split())}")

    def _said(self, since: int = 0) -> list[str]:
        """Return the lines that the daemon has logged. It is told to log errors only."""
        with open(self._log, "rb") as log:
            log.seek(since)
            return [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]


def _addresses(service: dict[str, Any] | None) -> set[str]:
    return {each["address"] for each in service["backends"]} if service else set()


def _farm(service: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the farm of a service: every port of every transport, in turn, from the site's own address."""
    return {
        "name": service["name"],
        "family": "ipv4",
        "virtual-addr": service["vip"],
        "virtual-ports": "",
        "protocol": "all",
        "mode": "snat",
        "source-addr": source,
        "scheduler": "rr",
        "state": "up",
        "backends": [
            {
                "name": each["address"],
                "ip-addr": each["address"],
                "weight": str(each["weight"] or 1),
                "state": "up" if each["weight"] else "off",
            }
            for each in service["backends"]
        ],
    }


def _nft(*argv: str) -> str:
    """Run nft and return what it prints, or "" if there is no such table."""
    return subprocess.run(("nft", *argv), capture_output=True, text=True, check=False).stdout


def _footprint() -> list[dict[str, Any]]:
    """Count what the daemon has put into the kernel, by kind."""
    listed = json.loads(_nft("-j", "list", *_TABLE) or '{"nftables": []}')["nftables"]
    counts = dict.fromkeys(("nft chains", "nft rules", "nft sets", "nft elements"), 0)
    for kind, told in (pair for each in listed for pair in each.items()):
        if kind in _KINDS:
            counts[_KINDS[kind]] += 1
            counts["nft elements"] += len(told.get("elem", ()))
    return [{"kind": kind, "objects": count} for kind, count in counts.items()]


def answer(nftlb: Nftlb, call: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a call. Raises RuntimeError."""
    services = {each["name"]: each for each in call["services"]}
    source = call["site"]["address"]
    if call["verb"] == "open":
        nftlb.start()
    elif call["verb"] == "apply":
        nftlb.program(services, call["changed"], source)
    elif call["verb"] == "resync":  # the API has no such call, and the daemon does not look at the kernel's rules
        nftlb.start()
        nftlb.program(services, list(services), source)
    elif call["verb"] == "close":
        nftlb.stop()
        _nft("delete", *_TABLE)
    elif call["verb"] == "footprint":
        return {"footprint": _footprint()}
    return {}


def main() -> None:
    """Serve the calls on stdin, a line each."""
    nftlb = Nftlb()
    for line in sys.stdin:
        try:
            told = answer(nftlb, json.loads(line))
        except (RuntimeError, OSError) as error:
            told = {"error": str(error)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
