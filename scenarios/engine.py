"""A container engine's API over its unix socket (https://docs.docker.com/reference/api/engine/)."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from typing import Any

from dataplanes.errors import BenchError

_ERROR = 400
_MOST = 16 << 20
"""The bytes of an answer that are read: some thousand tasks."""


class Refused(BenchError):
    """The engine refused a request."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, patience: float | None) -> None:
        super().__init__("engine", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """The engine of one node. Without `patience` it may take as long as it likes to answer."""

    def __init__(self, node: str, path: str, patience: float | None = None) -> None:
        self._node = node
        self._path = path
        self._patience = patience

    def get(self, path: str, **filters: list[str]) -> Any:
        """Return what the engine tells, only what passes the filters if there are any."""
        return self._ask("GET", path + (f"?filters={urllib.parse.quote(json.dumps(filters))}" if filters else ""))

    def post(self, path: str, body: object = None) -> Any:
        """Have the engine do something, and return its answer."""
        return self._ask("POST", path, json.dumps(body).encode() if body is not None else b"", "application/json")

    def delete(self, path: str) -> None:
        """Have the engine remove something."""
        self._ask("DELETE", path)

    def send(self, path: str, archive: bytes) -> None:
        """Send the engine an archive."""
        self._ask("POST", path, archive, "application/x-tar")

    def change(self, path: str, version: int, spec: object) -> None:
        """Change a swarm's object, of which `version` is the one that was read."""
        self.post(f"{path}/update?version={version}", spec)

    def _ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Any:
        """Ask. Raises Refused, with the engine's own words, and OSError or HTTPException if it is not up."""
        connection = _UnixConnection(self._path, self._patience)
        try:
            connection.request(method, path, body or None, {"Content-Type": kind} if kind else {})
            with connection.getresponse() as answer:  # it may outlive the connection
                content = answer.read(_MOST)
        finally:
            connection.close()
        if answer.status >= _ERROR:
            told = f"status {answer.status}: {content.decode(errors='replace').strip()[:400]}"
            raise Refused(f"the engine refused {method} {path.partition('?')[0]}", where=self._node, why=told)
        try:
            return json.loads(content) if content.strip() else None
        except ValueError:  # messages of progress, one a line
            return None
